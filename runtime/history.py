"""The tokens of a conversation, kept as the model read and said them.

Decoding an answer and encoding its text again may give other tokens, and then all that the KV cache holds from there
on is lost. So the text of a conversation is known piece by piece, prompt and answer in turn, each with its own tokens,
and only what is new behind the known pieces is encoded. A template that changes what lies behind, say by taking the
thoughts out of earlier answers, is followed: everything from the first changed piece on is encoded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from runtime.text import Tokenizer

# How many tokens the end of an answer may have that its text does not show: a stop string, half a character.
_MAX_HIDDEN = 16
# Tokens in front of an answer that decide whether its first piece begins with a space.
_SEAM = 16


class _Piece(NamedTuple):
    """``tokens`` and the ``texts`` that a template may put in their place: with or without a space in front."""

    texts: tuple[str, ...]
    tokens: tuple[int, ...]

    def length_in(self, text: str, start: int) -> int | None:
        """How much of ``text`` the piece takes at ``start``; None where it says something else."""
        return next((len(own) for own in self.texts if text.startswith(own, start)), None)


class History:
    """Pieces of one conversation: ``encode`` the text that is to be answered, then ``add_answer``."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pieces: list[_Piece] = []

    @property
    def tokens(self) -> list[int]:
        """All tokens so far."""
        return [token for piece in self._pieces for token in piece.tokens]

    def encode(self, text: str) -> list[int]:
        """The tokens of ``text``, a whole conversation up to where the assistant begins to speak."""
        known = place = 0
        for piece in self._pieces:
            length = piece.length_in(text, place)
            if length is None:
                break
            known, place = known + 1, place + length
        del self._pieces[known:]
        rest = text[place:]
        tokens = (
            self._tokenizer.encode_behind(rest) if place else self._tokenizer.encode(rest, add_special_tokens=False)
        )
        self._pieces.append(_Piece((rest,), tuple(tokens)))
        return self.tokens

    def add_answer(self, tokens: Sequence[int], shown: str, ended: bool) -> None:
        """``tokens`` answered the text encoded last; ``shown`` is what the next text will have of them.

        ``ended``: the last token is an end token. It stays if the template puts the same token there.
        """
        end = len(tokens) - ended
        front = self.tokens[-_SEAM:]
        for hidden in range(min(end, _MAX_HIDDEN) + 1):
            said = tokens[: end - hidden]
            text = self._tokenizer.decode(said)
            if shown.startswith(text):
                self._pieces.append(_Piece((self._tokenizer.decode(said, front), text), tuple(said)))
                if ended and not hidden:
                    self._pieces.append(_Piece((self._tokenizer.token(tokens[-1]),), (tokens[-1],)))
                return
