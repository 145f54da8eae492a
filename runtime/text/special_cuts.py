"""Finds places where a text can be cut so that its parts have the tokens of the whole: before special tokens.

The tokenizers library finds added tokens first and encodes the text between them separately. So a text that begins at
such a token has the same tokens as it has inside a longer text. This holds for added tokens that match the text itself
(not its normalized form), match after any text (not only as whole words), and are not overlapped by another added
token. A long conversation is therefore encoded from its last turn on.
"""

from __future__ import annotations

from collections.abc import Sequence

import tokenizers


class Cuts:
    """The added tokens of ``inner`` at which texts can be cut."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        self._added = inner.get_added_tokens_decoder()
        self._known: dict[int, bool] = {}

    def last(self, text: str, start: int, tokens: Sequence[int]) -> int:
        """The last place up to ``start`` where ``text`` can be cut; 0 if there is none but its beginning.

        ``tokens`` are those of the first ``start`` characters, in which the last token that cuts is searched for.
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
    """Whether an ``other`` token can begin before ``content`` and overlap it."""
    ends = (other[place:] for place in range(1, len(other)))
    return any(content.startswith(end) or end.startswith(content) for end in ends)
