"""The bytes of a text's tokens are the bytes of the text."""

from __future__ import annotations

from unicodedata import normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.text.test_tokenizer import HARD_TEXT, MADE, REAL, shared


@pytest.mark.parametrize("name", MADE)
@settings(deadline=None, max_examples=30)  # a busy machine is no failure
@given(text=st.text(max_size=30))
def test_together_they_are_the_text(name: str, text: str) -> None:
    text = "a" + text.replace("▁", "")  # which SentencePiece cannot tell from a space
    tokenizer = MADE[name]
    joined = b"".join(map(tokenizer.token_bytes, tokenizer.encode(text)))
    assert joined.removeprefix(b" ") == text.encode()


@pytest.mark.parametrize("name", REAL)
def test_they_are_in_real_vocabularies(name: str) -> None:
    tokenizer = shared(name)
    text = normalize("NFC", HARD_TEXT)  # as Qwen2 does
    joined = b"".join(map(tokenizer.token_bytes, tokenizer.encode(text, add_special_tokens=False)))
    assert joined.removeprefix(b" ") == text.encode()


def test_special_tokens_have_their_names_and_unknown_ids_nothing() -> None:
    tokenizer = MADE["byte-level"]
    assert tokenizer.token_bytes(tokenizer.special_tokens["<|end|>"]) == b"<|end|>"
    assert tokenizer.token_bytes(10_000) == b""
