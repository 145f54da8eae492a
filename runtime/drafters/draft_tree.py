"""A tree of tokens that a model grows level by level, one forward for each level.

A graph masks rows of one forward against each other, not against rows already in the cache. So the rows of branches
are fed again with every level and forgotten; where a single branch is left, its rows stay in the cache as the trunk.
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
    """A guessed token behind node ``parent`` (``ROOT``: behind the committed tokens).

    ``chance`` is the drafter's own probability of the token, ``score`` that of the path down to it, calibrated.
    """

    token: int
    parent: int
    depth: int
    score: float
    chance: float


class GrowingTree:
    """Nodes in order of growth, parents first. The model's cache holds the committed tokens, all of them."""

    def __init__(self, model: Model) -> None:
        self.nodes: list[Node] = []
        self._model = model
        self._trunk = ROOT

    def add(self, token: int, parent: int, score: float, chance: float) -> int:
        """A new node; its number."""
        depth = 0 if parent == ROOT else self.nodes[parent].depth + 1
        self.nodes.append(Node(token, parent, depth, score, chance))
        return len(self.nodes) - 1

    def path(self, node: int) -> list[int]:
        """The tokens from the first guess down to ``node``."""
        tokens: list[int] = []
        while node != ROOT:
            tokens.append(self.nodes[node].token)
            node = self.nodes[node].parent
        return tokens[::-1]

    def feed(self, level: Sequence[int]) -> FloatArray:
        """Logits that follow the nodes of ``level``, ``[len(level), vocab]``: all of one depth, parents fed before.

        Later levels must descend from this one.
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
        """``node`` and its ancestors up to the trunk."""
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
        """``chosen`` nodes, closed under parents, as a draft; ``probs`` is by node here as well as there.

        Depth first, in sibling order: accepted rows that follow one another are kept without a copy.
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
