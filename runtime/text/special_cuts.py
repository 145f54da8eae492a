"""Where a text can be cut so that its parts are encoded as the whole: in front of special tokens.

The tokenizers library looks for added tokens first and encodes what lies between them by itself, so from the beginning
of such a token on, a text has the tokens that it has there as a whole. That holds for tokens that are looked for in the
text as it is (not in its normalized form), whatever stands before them (not as words by themselves), and that no other
token can overlap. A long conversation is encoded from its last turn on this way.
"""

from __future__ import annotations

from collections.abc import Sequence

import tokenizers


class Cuts:
    """The added tokens of ``inner`` that cut texts."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        self._added = inner.get_added_tokens_decoder()
        self._known: dict[int, bool] = {}

    def last(self, text: str, start: int, tokens: Sequence[int]) -> int:
        """A place at or before ``start`` where ``text`` can be cut, 0 if there is none but its beginning.

        ``tokens`` are those of the first ``start`` characters: the last one of them that cuts is looked for.
        """
        for token in reversed(tokens):
            if token in self._added and self._cuts(token):
                return max(text.rfind(self._added[token].content, 0, start), 0)
        return 0

    def _cuts(self, token: int) -> bool:
        if token not in self._known:
            added = self._added[token]
            plain = not added.normalized and not added.single_word and added.content[:1].strip() != ""
            self._known[token] = plain and not any(
                _may_cover(other.content, added.content) for other in self._added.values() if not other.normalized
            )
        return self._known[token]


def _may_cover(other: str, content: str) -> bool:
    """Whether ``other`` can begin in front of ``content`` and reach into it."""
    ends = (other[place:] for place in range(1, len(other)))
    return any(content.startswith(end) or end.startswith(content) for end in ends)
