"""Keeps the tokens of a conversation as the model has read and written them.

Encoding the text of an answer may give other tokens than the answer had, and then everything in the KV cache from there
on is lost. So every prompt and every answer keeps its tokens. New text after them gets the tokens that it has within
the whole text: a special token may absorb the line break after it (``rstrip``, Phi-3), and SentencePiece tokenizers put
a space before a text, so a part encoded alone could have other tokens. If a template changes earlier text, for example
by removing the reasoning of earlier answers, everything from the first changed turn on is encoded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from runtime.text.tokenizer import Tokenizer

# The most tokens at the end of an answer that its text may not show: a stop string, an incomplete character.
_MAX_HIDDEN = 16
# Tokens before an answer that decide whether its first piece begins with a space.
_SEAM = 16


class TokenizedTurn(NamedTuple):
    """One turn: tokens of the new part of a prompt and of its answer, and the texts that templates may write for them.

    ``answers`` are the answer's text with the space that SentencePiece hides at its beginning, and without it.
    """

    prompt: str
    answers: tuple[str, ...]
    tokens: tuple[int, ...]

    def ends_in(self, text: str, start: int) -> list[int]:
        """Where this turn may end in ``text``, in which it begins at ``start``; empty if the text differs.

        Something follows each answer, so a text that ends with the prompt has no answer, not even an empty one.
        """
        if not text.startswith(self.prompt, start) or len(text) == start + len(self.prompt):
            return []
        start += len(self.prompt)
        return [start + len(own) for own in dict.fromkeys(self.answers) if text.startswith(own, start)]


# The turns of a history at one time.
TokenizedTurns = tuple[TokenizedTurn, ...]


class History:
    """The turns of one conversation: ``encode`` the text to be answered, then ``add_answer``."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._turns: list[TokenizedTurn] = []
        self._prompt, self._new = "", list[int]()

    @property
    def tokens(self) -> list[int]:
        """All tokens so far."""
        return [*(token for turn in self._turns for token in turn.tokens), *self._new]

    def snapshot(self) -> TokenizedTurns:
        """The turns so far, for ``restore``."""
        return tuple(self._turns)

    def restore(self, turns: TokenizedTurns) -> None:
        """Goes back to ``turns``, from ``snapshot``: their tokens are known again."""
        self._turns, self._prompt, self._new = list(turns), "", []

    def encode(self, text: str) -> list[int]:
        """The tokens of ``text``, a whole conversation up to where the assistant begins to speak."""
        known = place = 0
        for turn in self._turns:
            ends = turn.ends_in(text, place)
            if not ends:
                break
            known, place = known + 1, self._chosen(text, ends)
        del self._turns[known:]
        self._prompt, self._new = text[place:], []
        self._new = self._tokenizer.encode_rest(text, place, self.tokens)
        return self.tokens

    def _chosen(self, text: str, ends: Sequence[int]) -> int:
        """The first of ``ends`` that is inside no token of ``text``, else the last.

        There are several only behind an answer of spaces: the last space may be the template's, and part of a token.
        """
        if len(ends) == 1:
            return ends[0]
        return next((end for end in ends if self._tokenizer.is_between_tokens(text, end)), ends[-1])

    def add_answer(self, tokens: Sequence[int], shown: str, ended: bool) -> None:
        """Adds the answer ``tokens`` to the text encoded last; ``shown`` is what the next text will contain of them.

        ``ended``: the last token is an end token, which counts if the template writes it.
        """
        end = len(tokens) - ended
        front = self.tokens[-_SEAM:]
        for hidden in range(min(end, _MAX_HIDDEN) + 1):
            said = tokens[: end - hidden]
            answers = (self._tokenizer.decode(said, front), self._tokenizer.decode(said))
            if shown.startswith(answers):
                if said:  # an empty answer loses nothing if it is encoded again
                    self._turns.append(TokenizedTurn(self._prompt, answers, (*self._new, *said)))
                self._prompt, self._new = "", []
                return
