"""Block verification that records the distribution of every token it accepts or draws.

What a level emits has that level's own distribution, whatever drafted for it. So these are the distributions from which
its text was drawn, which the level above needs if that text is a draft.
"""

from __future__ import annotations

from runtime.arrays import Arena, FloatArray
from runtime.decoding.acceptance.block import block_walk
from runtime.decoding.acceptance.coins import StepCoins
from runtime.decoding.acceptance.rows import TargetRows
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, Verdict


class RecordingVerifier:
    """``probs[i]`` is the distribution, ``[vocab]``, of the i-th token emitted so far, after every sampling filter.

    All distributions are in ``arena``, which its owner resets.
    """

    name = "block"
    exact = True

    def __init__(self, arena: Arena) -> None:
        self.probs: list[FloatArray] = []
        self._arena = arena

    def accept(self, draft: Draft, logits: FloatArray, context: Context) -> Verdict:
        """Judges ``draft`` as ``BlockVerifier`` does."""
        rows = TargetRows(draft, logits, context, self._arena.take)
        visited: dict[int, FloatArray] = {}

        def probs_after(node: int) -> FloatArray:
            if node not in visited:
                visited[node] = rows.probs(node)
            return visited[node]

        verdict = block_walk(draft, probs_after, StepCoins(context.sampling.seed, context.position))
        self.probs += [probs_after(node) for node in (-1, *verdict.path)]
        return verdict
