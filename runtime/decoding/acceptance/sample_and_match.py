"""Sample and match: draws from the target once per visited node, and descends while the draft has the token.

Drafted tokens never influence the random numbers. So with any draft the output is the same, token for token, as plain
sampling with the same seed. No exact rule accepts a one-hot chain more often; drafts that were drawn from a
distribution can be accepted more often (block.py, recursive.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from runtime.arrays import FloatArray
from runtime.decoding.acceptance.rows import TargetRows
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, Verdict
from runtime.decoding.sampling import uniform


class MatchVerifier:
    """The default above temperature 0; correct at 0 as well, and for every kind of draft."""

    name = "match"
    exact = True

    def accept(self, draft: Draft, logits: FloatArray, context: Context) -> Verdict:
        """Judges ``draft``; the token at depth d is drawn with the number of position ``context.position + d``."""
        rows = TargetRows(draft, logits, context)
        positions = itertools.count(context.position)
        return match_walk(draft, lambda node: rows.draw(node, uniform(context.sampling.seed, next(positions))))


def match_walk(draft: Draft, choose: Callable[[int], int]) -> Verdict:
    """Walks down from the anchor while ``choose(node)``, the target's token after a node, is one of its children."""
    path: list[int] = []
    while True:
        node = path[-1] if path else -1
        token = choose(node)
        child = next((child for child in draft.children(node) if draft.tokens[child] == token), None)
        if child is None:
            return Verdict(tuple(path), token)
        path.append(child)
