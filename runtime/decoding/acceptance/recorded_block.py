"""Block verification that remembers: the distribution of every token that it let stand or drew itself.

What a level emits has that level's own law, whoever drafted for it; so these are the distributions its text was drawn
from, when that text is itself a draft for the level above.
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
