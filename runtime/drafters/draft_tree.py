"""A tree of drafted tokens that a model grows depth by depth, with one forward for each depth.

A tree mask covers the rows of one forward; rows in the cache are visible to all of them. So the rows of branches cannot
stay in the cache: every forward computes them again, and the cache drops them afterwards. Once a single branch is left,
its rows do stay in the cache. They are called the trunk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from runtime.arrays import FloatArray
from runtime.decoding.draft import Draft, DrawKind
from runtime.decoding.protocols import Model

ROOT = -1


@dataclass(frozen=True)
class Node:
    """A drafted token that follows node ``parent`` (``ROOT``: the committed tokens); depth 0 follows ``ROOT``.

    ``chance`` is the drafter's own probability of the token. ``score`` is the calibrated chance that the whole path
    down to it is accepted.
    """

    token: int
    parent: int
    depth: int
    score: float
    chance: float


class GrowingTree:
    """A tree in the making; ``nodes`` are in order of growth, parents first.

    The cache of ``model`` must hold all committed tokens and nothing else.
    """

    def __init__(self, model: Model) -> None:
        self.nodes: list[Node] = []
        self._model = model
        self._trunk = ROOT

    def add(self, token: int, parent: int, score: float, chance: float) -> int:
        """Adds a node and returns its number."""
        depth = 0 if parent == ROOT else self.nodes[parent].depth + 1
        self.nodes.append(Node(token, parent, depth, score, chance))
        return len(self.nodes) - 1

    def path(self, node: int) -> list[int]:
        """The tokens from depth 0 down to ``node``; none for ``ROOT``."""
        tokens: list[int] = []
        while node != ROOT:
            tokens.append(self.nodes[node].token)
            node = self.nodes[node].parent
        return tokens[::-1]

    def feed(self, level: Sequence[int]) -> FloatArray:
        """The logits after the nodes ``level``, float32 ``[len(level), vocab]``, valid until the model's next forward.

        The nodes have one depth, and their parents were given to the call before. Later calls get descendants only.
        """
        rows = sorted(set().union(*map(self._behind_trunk, level)))
        tokens, held = [self.nodes[node].token for node in rows], self._model.cache.length
        if len(level) == 1:
            self._trunk = level[0]
            return self._model.forward(tokens, None, len(rows) - 1).logits
        place = {node: row for row, node in enumerate(rows)} | {self._trunk: -1}
        parents = [place[self.nodes[node].parent] for node in rows]
        logits = self._model.forward(tokens, parents, len(rows) - len(level)).logits
        self._model.cache.rollback(held)
        return logits

    def _behind_trunk(self, node: int) -> list[int]:
        """``node`` and its ancestors that do not belong to the trunk."""
        nodes: list[int] = []
        while node != self._trunk:
            nodes.append(node)
            node = self.nodes[node].parent
        return nodes

    def draft(
        self,
        chosen: Sequence[int],
        source: str,
        kind: DrawKind = DrawKind.ONE_HOT,
        probs: Mapping[int, FloatArray] = MappingProxyType({}),
        expected: float | None = None,
    ) -> Draft:
        """The ``chosen`` nodes as a draft; with a node, its parent must be chosen. ``probs`` is by number of the node.

        The order is depth first, siblings as they were added, so that rows of an accepted path often lie side by side
        and the cache keeps them without a copy.
        """
        children: dict[int, list[int]] = {}
        for node in sorted(chosen):
            children.setdefault(self.nodes[node].parent, []).append(node)
        place = {ROOT: ROOT}
        pending = children.get(ROOT, [])[::-1]
        while pending:
            node = pending.pop()
            place[node] = len(place) - 1
            pending += children.get(node, [])[::-1]
        order = [node for node in place if node != ROOT]
        return Draft(
            tokens=tuple(self.nodes[node].token for node in order),
            parents=tuple(place[self.nodes[node].parent] for node in order),
            kind=kind,
            probs={place[node]: row for node, row in probs.items() if node in place},
            expected=expected,
            source=source,
            chances=tuple(self.nodes[node].chance for node in order),
        )
