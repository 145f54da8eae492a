"""Trees of drafted tokens that a model grows depth by depth, with one forward for each depth.

A node's score is the product of the chances along its path, so it never rises with depth. A node that is not among the
best ``limit.nodes`` at one depth therefore never returns, and the result is the best tree of that size, as in EAGLE-2
(arXiv 2406.16858) but without a fixed beam.

A tree mask covers the rows of one forward; rows in the cache are visible to all of them. So the rows of branches cannot
stay in the cache: every forward computes them again, and the cache drops them afterwards. Once a single branch is left,
its rows do stay in the cache. They are called the trunk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from runtime.arrays import Arena, FloatArray, at_least
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DraftLimit, DrawKind
from runtime.decoding.protocols import Model, ModelOutput
from runtime.decoding.sampling import RandomStream, draw, passing_row, uniform
from runtime.drafters.chain import Calibration
from runtime.drafters.confidence import confidence_sampling, is_worth_extending
from runtime.drafters.vocabulary import SharedVocabulary

ROOT = -1
# A node whose probability or score is below this is not worth a row of the target. A heuristic.
_MIN_SCORE = 0.01


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

    The cache of ``model`` must hold all committed tokens and nothing else; ``logits`` ``[1, vocab]`` are behind them.
    """

    def __init__(self, model: Model, logits: FloatArray) -> None:
        self.nodes: list[Node] = []
        self._model, self._logits = model, logits
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

        The nodes have one depth, and their parents were given to the call before, ``ROOT`` to the first. Later calls
        get descendants only.
        """
        if level == [ROOT]:
            return self._logits
        rows, held = sorted(set().union(*map(self._behind_trunk, level))), self._model.cache.length
        if len(level) == 1:
            self._trunk = level[0]
            return self._run(rows, None, 1).logits
        place = {node: row for row, node in enumerate(rows)} | {self._trunk: -1}
        parents = [place[self.nodes[node].parent] for node in rows]
        logits = self._run(rows, parents, len(level)).logits
        self._model.cache.rollback(held)
        return logits

    def _run(self, nodes: Sequence[int], parents: Sequence[int] | None, wanted: int) -> ModelOutput:
        """Runs the rows of ``nodes``; the output of the last ``wanted``."""
        tokens = [self.nodes[node].token for node in nodes]
        return self._model.forward(tokens, parents, len(nodes) - wanted)

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


def fitting_nodes(model: Model, wanted: int) -> int:
    """The number of nodes, at most ``wanted``, that one forward of ``model`` can run with its padding."""
    nodes = min(wanted, model.max_rows)
    while nodes > 0 and model.padded(nodes) > model.max_rows:
        nodes -= 1
    return nodes


def best_tree(
    context: Context,
    limit: DraftLimit,
    tree: GrowingTree,
    vocabulary: SharedVocabulary,
    calibration: Calibration,
    source: str,
) -> Draft:
    """The most probable ``limit.nodes`` nodes; ``tree`` is empty."""
    params = confidence_sampling(context.sampling)
    best: list[int] = []
    level = [ROOT]
    for depth in range(limit.depth):
        for node, after in zip(level, vocabulary.logits(tree.feed(level)), strict=True):
            score = tree.nodes[node].score if node != ROOT else 1.0
            floor = max(_MIN_SCORE, limit.floor, tree.nodes[best[-1]].score if len(best) == limit.nodes else 0.0)
            row = passing_row(vocabulary.size)
            probs = vocabulary.distribution(after, context, tree.path(node), row, params).dense(row)
            for token in _likeliest(probs, _MIN_SCORE, limit.nodes):
                share = float(probs[token])
                if score * calibration(share) >= floor:
                    tree.add(token, node, score * calibration(share), share)
        best = sorted(range(len(tree.nodes)), key=lambda node: -tree.nodes[node].score)[: limit.nodes]
        level = sorted(node for node in best if tree.nodes[node].depth == depth)
        if not level:
            break
    return tree.draft(best, source, expected=sum(tree.nodes[node].score for node in best))


def drawn_tree(
    context: Context,
    limit: DraftLimit,
    tree: GrowingTree,
    vocabulary: SharedVocabulary,
    calibration: Calibration,
    source: str,
    arena: Arena,
    branches: int,
) -> Draft:
    """``branches`` drawn chains, without replacement where they part. See ``drawn_chain`` for the numbers."""
    branches = min(branches, limit.nodes)
    arena.reset()
    probs: dict[int, FloatArray] = {}
    level = [ROOT]
    for depth in range(min(limit.depth, limit.nodes // branches)):
        if depth:
            level = [node for node in level if is_worth_extending(tree.nodes[node].score, depth, limit.floor)]
            if not level:
                break
        rows = vocabulary.logits(tree.feed(level))
        parents, level = level, []
        for node, logits in zip(parents, rows, strict=True):
            row = arena.take(vocabulary.size)
            probs[node] = vocabulary.distribution(logits, context, tree.path(node), row).dense(row)
            level += _draw_children(context, tree, node, probs[node], 1 if depth else branches, calibration)
    return tree.draft(range(len(tree.nodes)), source, DrawKind.WITHOUT_REPLACEMENT, probs)


def _draw_children(
    context: Context, tree: GrowingTree, node: int, probs: FloatArray, count: int, calibration: Calibration
) -> list[int]:
    """Draws ``count`` different children of ``node``; fewer if the distribution has fewer tokens."""
    left, children = probs, []
    if count > 1:
        left = passing_row(len(probs))
        left[:] = probs
    score = tree.nodes[node].score if node != ROOT else 1.0
    for _ in range(count):
        number = uniform(context.sampling.seed, context.position, RandomStream.DRAFTER, len(tree.nodes))
        token = draw(left, number)
        share = float(probs[token])
        children.append(tree.add(token, node, score * calibration(share), share))
        if count > 1:
            left[token] = 0
            if not left.any():
                break
    return children


def _likeliest(probs: FloatArray, floor: float, most: int) -> list[int]:
    """At most ``most`` tokens of probability ``floor`` and above, the most probable first."""
    found = np.flatnonzero(at_least(probs, floor))
    return [int(token) for token in found[np.argsort(-probs[found], kind="stable")][:most]]
