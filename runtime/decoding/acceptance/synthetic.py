"""Accepts drafts with given chances instead of judging them: for weights that are random and can agree with nothing.

What steps cost is real, what they say is not, and every row of a benchmark that uses this says so. At each visited node
its children are tried one after another with the chance of their depth, so that the r-th one is accepted with
c (1 - c)^r, as ``memory.expected`` counts. A position is judged by one number, whatever the draft's shape, so that
contenders meet the same luck.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.arrays import FloatArray
from runtime.decoding.acceptance.rows import TargetRows
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, Verdict
from runtime.decoding.sampling import Stream, uniform

# Numbers of levels apart, however many siblings a node has.
_PER_LEVEL = 1 << 16


class SyntheticVerifier:
    """``chances[d]`` for a token at depth d, given that those above it were accepted; deeper ones have the last chance.

    ``level`` 0 is the target's verifier, 1 that of the level below it, and so on: their luck is independent. The token
    behind the path is the most probable one, at any temperature.
    """

    name = "synthetic"
    exact = False

    def __init__(self, chances: Sequence[float], level: int = 0) -> None:
        assert chances
        assert all(0 <= chance <= 1 for chance in chances), chances
        self._chances, self._first_index = tuple(chances), level * _PER_LEVEL

    def accept(self, draft: Draft, logits: FloatArray, context: Context) -> Verdict:
        """See ``Verifier``; of ``logits`` only the row behind the last accepted node is looked at."""
        path: list[int] = []
        while (child := self._accepted(draft, path, context)) is not None:
            path.append(child)
        return Verdict(tuple(path), TargetRows(draft, logits, context).token(path[-1] if path else -1))

    def _accepted(self, draft: Draft, path: Sequence[int], context: Context) -> int | None:
        """The child of the end of ``path`` that is accepted, if one is."""
        depth = len(path)
        chance = self._chances[min(depth, len(self._chances) - 1)]
        for number, child in enumerate(draft.children(path[-1] if path else -1)):
            index = self._first_index + number
            if uniform(context.sampling.seed, context.position + depth, Stream.VERIFIER, index) < chance:
                return child
        return None
