"""Accepts drafts with given chances instead of judging them, for random weights, which never agree.

The cost of steps is real, their text is not, and every row of a benchmark that uses this says so. At each visited node
the children are tried in turn with the chance of their depth, so the r-th one is accepted with c (1 - c)^r, as
``memory.expected`` assumes. A position has one random number for any shape of draft, so contenders have the same luck.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.arrays import FloatArray
from runtime.decoding.acceptance.rows import TargetRows
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, Verdict
from runtime.decoding.sampling import RandomStream, uniform

# Random numbers of different levels are this far apart; no node has so many siblings.
_PER_LEVEL = 1 << 16


class SyntheticVerifier:
    """``chances[d]`` is for a token at depth d if those above it were accepted; deeper tokens have the last chance.

    ``level`` 0 is the target's verifier, 1 that of the level below, and so on; their luck is independent. The token
    after the path is the most probable one, at any temperature.
    """

    name = "synthetic"
    exact = False

    def __init__(self, chances: Sequence[float], level: int = 0) -> None:
        assert chances
        assert all(0 <= chance <= 1 for chance in chances), chances
        self._chances, self._first_index = tuple(chances), level * _PER_LEVEL

    def accept(self, draft: Draft, logits: FloatArray, context: Context) -> Verdict:
        """See ``Verifier``; reads only the row of ``logits`` after the last accepted node."""
        path: list[int] = []
        while (child := self._accepted(draft, path, context)) is not None:
            path.append(child)
        return Verdict(tuple(path), TargetRows(draft, logits, context).token(path[-1] if path else -1))

    def _accepted(self, draft: Draft, path: Sequence[int], context: Context) -> int | None:
        """The child of the path's end that is accepted, if any."""
        depth = len(path)
        chance = self._chances[min(depth, len(self._chances) - 1)]
        for number, child in enumerate(draft.children(path[-1] if path else -1)):
            index = self._first_index + number
            if uniform(context.sampling.seed, context.position + depth, RandomStream.VERIFIER, index) < chance:
                return child
        return None
