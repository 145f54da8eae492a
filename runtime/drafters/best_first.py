"""Best-first search for a draft: the nodes with the best chances, where chances are known without a model."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from runtime.decoding.draft import Draft, DraftLimit

State = TypeVar("State")


class Continued(NamedTuple, Generic[State]):
    """A token that may follow, the chance that it does, and the state of the search behind it."""

    chance: float
    token: int
    state: State


def draft_best_first(
    following: Callable[[State, int], Sequence[Continued[State]]],
    root: State,
    limit: DraftLimit,
    floor: float,
    source: str,
) -> Draft:
    """The draft within ``limit`` of the nodes with the best chances; none below ``floor``.

    ``following`` gives what may follow a state at a depth, best first. Chances fall along a path, so a search that
    always takes the best open node finds them in order. ``Draft.expected`` is the sum of the chances.
    """
    tokens: list[int] = []
    parents: list[int] = []
    expected, serial = 0.0, 0
    nodes_open: list[tuple[float, int, int, int, int, State]] = []
    parent, depth, chance, here = -1, 0, 1.0, root
    while True:
        if depth < limit.depth:
            children = following(here, depth)
            for child in children[:1] if limit.shape == "chain" else children:
                if chance * child.chance >= floor:
                    serial += 1  # among equal chances the older node comes first
                    heapq.heappush(
                        nodes_open, (-chance * child.chance, serial, parent, depth + 1, child.token, child.state)
                    )
        if not nodes_open or len(tokens) == limit.nodes:
            return Draft(tuple(tokens), tuple(parents), expected=expected, source=source)
        negative, _, above, depth, token, here = heapq.heappop(nodes_open)
        parent, chance = len(tokens), -negative
        tokens.append(token)
        parents.append(above)
        expected += chance
