"""Small tokenizers of every kind that constraints work with, made on the spot."""

from __future__ import annotations

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Inner

from runtime.text.tokenizer import Tokenizer

_WORDS = ("name", "age", "true", "false", "null", "in", "the", "12", '": ', ', "', '{"', '"}', "é", "日本")


def byte_level() -> Tokenizer:
    """Bytes as characters (GPT-2), and a few longer tokens, one of which is a part of a character."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocab = {token: number for number, token in enumerate(alphabet)}
    merges: list[tuple[str, str]] = []
    for word in _WORDS:
        pieces = list(spell.pre_tokenize_str(word)[0][0])
        while len(pieces) > 1:
            left, right = pieces[:2]
            pieces[:2] = [left + right]
            if left + right not in vocab:
                vocab[left + right] = len(vocab)
                merges.append((left, right))
    inner = Inner(models.BPE(vocab, merges))
    inner.pre_tokenizer, inner.decoder = spell, decoders.ByteLevel()
    inner.add_special_tokens([AddedToken("<|end|>", special=True), AddedToken("<|user|>", special=True)])
    inner.add_tokens([AddedToken("<tool>", special=False)])
    return Tokenizer(inner)


def byte_fallback() -> Tokenizer:
    """SentencePiece's kind: U+2581 for spaces, one of them in front of a text, and single bytes for what is missing."""
    entries = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256))]
    entries += [character for code in range(33, 127) if (character := chr(code))]
    entries += ["▁", "▁n", "▁na", "na", "am", "ag", '":', '▁"', "é"]
    vocab = {token: number for number, token in enumerate(entries)}
    merges = [("▁", "n"), ("n", "a"), ("▁n", "a"), ("a", "m"), ("a", "g"), ('"', ":"), ("▁", '"')]
    inner = Inner(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    strip = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(strip)
    inner.add_special_tokens(["<unk>", "<s>", "</s>"])
    return Tokenizer(inner)


def word_pieces() -> Tokenizer:
    """BERT's kind, which drops spaces: constraints cannot tell what its tokens add to a text."""
    letters = [chr(code) for code in range(33, 127)]
    entries = ["[UNK]", *letters, *(f"##{letter}" for letter in letters), " "]
    vocab = {token: number for number, token in enumerate(entries)}
    inner = Inner(models.WordPiece(vocab, unk_token="[UNK]"))
    inner.normalizer, inner.pre_tokenizer = normalizers.NFC(), pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    return Tokenizer(inner)


KINDS = {"byte level": byte_level, "byte fallback": byte_fallback}
