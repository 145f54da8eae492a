"""The bytes that each token stands for: what a reader needs who gets tokens one at a time, as log probabilities do.

A token may be a part of a character, so its text alone may not exist; its bytes always do. Vocabularies write bytes in
three ways: each as a printable character (GPT-2's byte level), as ``<0x0A>`` beside text in which U+2581 is a space
(SentencePiece), or as text.
"""

from __future__ import annotations

from collections.abc import Mapping

import tokenizers

_SPACE_MARK = "\N{LOWER ONE EIGHTH BLOCK}"


class TokenBytes:
    """The bytes of the tokens of ``inner``; ``byte_tokens`` are those of its byte fallback, by id."""

    def __init__(self, inner: tokenizers.Tokenizer, byte_tokens: Mapping[int, int]) -> None:
        self._inner, self._byte_tokens = inner, byte_tokens
        self._added = inner.get_added_tokens_decoder()
        decoder = inner.decoder.__getstate__() if inner.decoder is not None else b""
        self._is_byte_level = b'"ByteLevel"' in decoder
        self._has_space_marks = _SPACE_MARK.encode() in decoder or b"\\u2581" in decoder

    def find(self, token: int) -> bytes:
        """The bytes of ``token``, those of its name if it is special; empty for an id without an entry."""
        if token in self._byte_tokens:
            return bytes([self._byte_tokens[token]])
        written = self._inner.id_to_token(token)
        if written is None or token in self._added:
            return (written or "").encode()
        if self._is_byte_level and all(character in _BYTES for character in written):
            return bytes(_BYTES[character] for character in written)
        return (written.replace(_SPACE_MARK, " ") if self._has_space_marks else written).encode()


def _byte_level() -> dict[str, int]:
    """Bytes by the characters that stand for them: Latin-1's printable ones for themselves, U+0100 on for the rest."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(0x100)) - set(printable))
    codes = {**{value: value for value in printable}, **{value: 0x100 + place for place, value in enumerate(others)}}
    return {chr(code): value for value, code in codes.items()}


_BYTES = _byte_level()
