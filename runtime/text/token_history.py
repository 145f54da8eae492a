"""The tokens of a conversation, kept as the model read and said them.

Decoding an answer and encoding its text again may give other tokens, and then all that the KV cache holds from there
on is lost. So every prompt and every answer keeps the tokens it had, and what is new behind them has the tokens that
the whole text has there: a special token may swallow the line break behind it (``rstrip``, Phi-3), and a tokenizer in
SentencePiece's manner puts a space in front of texts, so a piece by itself may be encoded otherwise. A template that
changes what lies behind, say by taking the thoughts out of earlier answers, is followed: everything from the first
changed turn on is encoded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from runtime.text.tokenizer import Tokenizer

# How many tokens the end of an answer may have that its text does not show: a stop string, half a character.
_MAX_HIDDEN = 16
# Tokens in front of an answer that decide whether its first piece begins with a space.
_SEAM = 16


class _Turn(NamedTuple):
    """A prompt as far as it was new, and its answer: tokens, and the texts that a template may put in their place.

    ``answers`` are the answer's text with the space in front that SentencePiece does not show, and without.
    """

    prompt: str
    answers: tuple[str, ...]
    tokens: tuple[int, ...]

    def end_in(self, text: str, start: int) -> int | None:
        """Where the turn ends that begins at ``start`` of ``text``; None where it says something else."""
        if not text.startswith(self.prompt, start):
            return None
        start += len(self.prompt)
        return next((start + len(own) for own in self.answers if text.startswith(own, start)), None)


class History:
    """The turns of one conversation: ``encode`` the text that is to be answered, then ``add_answer``."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._turns: list[_Turn] = []
        self._prompt, self._new = "", list[int]()

    @property
    def tokens(self) -> list[int]:
        """All tokens so far."""
        return [*(token for turn in self._turns for token in turn.tokens), *self._new]

    def encode(self, text: str) -> list[int]:
        """The tokens of ``text``, a whole conversation up to where the assistant begins to speak."""
        known = place = 0
        for turn in self._turns:
            end = turn.end_in(text, place)
            if end is None:
                break
            known, place = known + 1, end
        del self._turns[known:]
        self._prompt, self._new = text[place:], []
        self._new = self._tokenizer.encode_rest(text, place, self.tokens)
        return self.tokens

    def add_answer(self, tokens: Sequence[int], shown: str, ended: bool) -> None:
        """``tokens`` answered the text encoded last; ``shown`` is what the next text will have of them.

        ``ended``: the last token is an end token, which comes back if the template puts it there.
        """
        end = len(tokens) - ended
        front = self.tokens[-_SEAM:]
        for hidden in range(min(end, _MAX_HIDDEN) + 1):
            said = tokens[: end - hidden]
            text = self._tokenizer.decode(said)
            if shown.startswith(text):
                if said:  # else nothing is lost if the next text has other tokens here
                    answers = (self._tokenizer.decode(said, front), text)
                    self._turns.append(_Turn(self._prompt, answers, (*self._new, *said)))
                self._prompt, self._new = "", []
                return
