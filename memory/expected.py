"""How many tokens a step is expected to commit, from the acceptance of the drafted tokens by depth."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def chain_tokens(chances: Sequence[float]) -> float:
    """Tokens that a step with a chain commits on average, the target's own included: 1 + c1 + c1 c2 + ...

    ``chances[d]`` is the chance that the token at depth d is accepted, given that all before it were (Leviathan et al.
    2023, with a chance for every depth).
    """
    total, survival = 1.0, 1.0
    for chance in chances:
        survival *= chance
        total += survival
    return total


def tree_tokens(chances: Sequence[float], nodes: int) -> float:
    """The same for the best tree of ``nodes`` nodes that is no deeper than ``chances`` is long."""
    return tree_curve(chances, nodes)[-1]


def tree_curve(chances: Sequence[float], nodes: int) -> list[float]:
    """``tree_tokens`` for every number of nodes from 0 to ``nodes``.

    At a depth with chance c the drafter's choice of rank r (from 0) is taken to be right with probability c (1 - c)^r,
    whatever stands before it. The tree has the likeliest nodes, as EAGLE-2 grows it (Li et al. 2024).
    """
    if not chances:
        return [1.0] * (nodes + 1)
    curve = [1.0]
    # Pairs of the negative probability of a path, and its depth.
    open_nodes = [(-chances[0], 0)]
    for _ in range(nodes):
        negative, depth = heapq.heappop(open_nodes)
        curve.append(curve[-1] - negative)
        if depth + 1 < len(chances):
            heapq.heappush(open_nodes, (negative * chances[depth + 1], depth + 1))
        heapq.heappush(open_nodes, (negative * (1 - chances[depth]), depth))
    return curve
