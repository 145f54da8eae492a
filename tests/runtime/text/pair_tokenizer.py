"""A tokenizer of the tiny bundles' size whose answers rarely encode to the tokens they were made of.

Pairs of the letters a to h are one token. A random model says "a", "b" as often as any pair; encoding makes it "ab".
"""

from __future__ import annotations

from itertools import product

from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers

from runtime.text.chat_template import ChatTemplate
from runtime.text.tokenizer import Tokenizer
from tests.runtime.tiny_bundle import END, TEMPLATE

LETTERS = "abcdefgh"


def pair_tokenizer(template: str = TEMPLATE, end: str = "<|end|>") -> Tokenizer:
    """With ``template``; the last of its 96 tokens, special, is written ``end``."""
    pairs = [left + right for left, right in product(LETTERS, repeat=2)]
    tokens = [*LETTERS, *pairs, *"[]Ġimnrstuy0123456789."]
    inner = Inner(models.BPE({token: number for number, token in enumerate(tokens)}, [tuple(pair) for pair in pairs]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([*(f"<|{number}|>" for number in range(END - len(tokens))), end])
    assert inner.get_vocab_size() == END + 1
    return Tokenizer(inner, ChatTemplate(template, {}, "the test's template"))
