"""Predicted speed: how many tokens a draft brings for the forwards it costs, and so tokens per second.

Of three levels, a drafter guesses for an intermediate, and what that one says is the draft for the target (SpecMQuant,
arXiv 2505.22179). How often a drafter agrees with an intermediate is not measured at export: its agreement with the
target stands for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from export.manifest import KvEffect, Level
from memory.choices import CHAIN_SIZES, INNER_NODES, TREE_SIZES, Choices, Scene
from memory.expected import chain_tokens, tree_tokens
from memory.plan import Shape
from memory.reference import Times
from memory.step_models import (
    StepEstimate,
    brought_by_chain,
    brought_by_tree,
    chain_step,
    hierarchy_step,
    judged_step_seconds,
    tree_step,
)

# Agreement of a drafter that was exported without measuring it: a cautious guess.
_UNKNOWN_AGREEMENT = 0.7
# A drafter that sees half of the conversation agrees this much less often. An assumption; tests hold its sign alone.
_WINDOW_FACTOR = 0.98
# Repetition alone, on text that is not made of repetitions: 1.01 measured on the demo's prompts (README).
_MODEL_FREE_GAIN = 1.01
# How often a drafter may agree on some text: from hardly to nearly always. Its own average says nothing of the rest.
_AGREEMENTS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
# A tree takes more room than a chain of as many nodes; it must promise so much more.
_TREE_GAIN = 1.02
# Predictions are about as uncertain as this share, and a device may have cheaper rows than the reference.
_NEARLY = 0.95


class Way(NamedTuple):
    """A way to draft with ``shape`` and ``nodes``, and the tokens a second that are expected of it."""

    rate: float
    shape: Shape
    nodes: int


@cache
def expected_tokens(agreement: float, shape: Shape, nodes: int) -> float:
    """Tokens that a step with a draft of ``nodes`` nodes commits on average, the target's own included.

    The drafter's first choice is right with the same probability wherever it stands. See ``memory.expected``.
    """
    if shape == "chain":
        return chain_tokens([agreement] * nodes)
    return tree_tokens([agreement] * draft_depth(shape, nodes), nodes)


def draft_depth(shape: Shape, nodes: int) -> int:
    """Tokens along the longest path of a draft: all of a chain; trees are as deep as a full binary one."""
    return nodes if shape == "chain" else nodes.bit_length()


@dataclass(frozen=True)
class Predictor:
    """Predicts the speed of choices on a device whose forwards take ``times``."""

    scene: Scene
    times: Times

    def tokens_per_second(self, choices: Choices) -> float:
        """The fastest way to decode that ``choices`` leave open: plain, model-free, or any draft up to the planned one.

        Speculation that does not pay is not counted as a loss, since nobody has to use it. A narrower KV type is never
        counted as a gain: it is given up for bytes alone, though it may be faster.
        """
        plain = self._plain(choices)
        if not choices.nodes:
            return plain
        return max([plain * _MODEL_FREE_GAIN, *(way.rate for way in self._ways(choices))])

    def best_hierarchy(self, choices: Choices, middle: str) -> float:
        """Tokens a second with the best of the planned drafters below ``middle``; 0 if there is none."""
        return max((way.rate for way in self._hierarchies(middle, choices, None)), default=0.0)

    def best_shape(self, choices: Choices, shape: Shape | None) -> tuple[Shape, int]:
        """The leanest draft, of ``shape`` if that is given, with which ``choices`` are as fast as they can be."""
        ways = [way for way in self._ways(choices) if shape in (None, way.shape)]
        best = max(ways, key=lambda way: (max(way.rate, self._plain(choices)), -way.nodes), default=None)
        return (best.shape, best.nodes) if best is not None else (choices.shape, choices.nodes)

    def room(self, choices: Choices, shape: Shape | None) -> tuple[Shape, int]:
        """The smallest draft, of ``shape`` if that is given, that has room for what would be fast on any text.

        Texts differ in how often a drafter agrees, and the runtime follows. A tree has room for chains as well.
        """
        found: Shape = shape or "chain"
        plain, most = self._plain(choices), 1
        for agreement in _AGREEMENTS:
            paying = [way for way in self._ways(choices, agreement) if shape in (None, way.shape) and way.rate > plain]
            ways = [way for way in paying if way.shape == "chain"]
            if _fastest(paying) > _TREE_GAIN * _fastest(ways):
                ways, found = paying, "tree"
            most = max([most, *(way.nodes for way in ways if way.rate >= _NEARLY * _fastest(ways))])
        return found, most

    def _plain(self, choices: Choices) -> float:
        """Without drafts; with a fixed width no step has fewer rows than the largest draft."""
        rows = choices.nodes + 1 if self.scene.request.fixed_width else 1
        return 1 / (self.target_seconds(choices, rows) + self.times.step_seconds)

    def _ways(self, choices: Choices, agreement: float | None = None) -> Iterator[Way]:
        """Every way that ``choices`` leave open; ``agreement`` of all drafters, None: each its own."""
        for name in choices.drafters:
            yield from self._drafts(name, choices, agreement)
            if self.scene.levels[name].role == "intermediate":
                yield from self._hierarchies(name, choices, agreement)

    def _drafts(self, name: str, choices: Choices, agreement: float | None) -> Iterator[Way]:
        """Drafts by ``name`` alone, of every size that is planned."""
        level = self.scene.levels[name]
        agreement, costs = self._agreement(level, choices) if agreement is None else agreement, _Costs(self, choices)
        for shape, nodes in draft_sizes(choices.shape, choices.nodes):
            if shape == "tree" and not level.tree:
                continue
            depth = draft_depth(shape, nodes)
            if shape == "chain":
                estimate = chain_step(costs, name, [agreement] * depth)
            else:
                estimate = tree_step(costs, name, depth, nodes, expected_tokens(agreement, shape, nodes))
            yield self._way(estimate, costs, shape, nodes)

    def _hierarchies(self, middle: str, choices: Choices, agreement: float | None) -> Iterator[Way]:
        """Chains by ``middle``, with each of the drafters below it: every length with the inner draft that is best."""
        judge = self.scene.levels[middle]
        outer = self._agreement(judge, choices) if agreement is None else agreement
        for name in choices.drafters:
            lower = self.scene.levels[name]
            if lower.role != "drafter":
                continue
            inner = self._agreement(lower, choices) if agreement is None else agreement
            costs = _Costs(self, choices)
            brought, seconds = self._inner_step(judge, lower, inner, costs)
            for length in (nodes for shape, nodes in draft_sizes("chain", choices.nodes) if nodes > 1):
                estimate = hierarchy_step(costs, middle, [outer] * length, brought, seconds)
                yield self._way(estimate, costs, "chain", length)

    def _inner_step(
        self, judge: Level, lower: Level, agreement: float, costs: _Costs
    ) -> tuple[tuple[float, ...], float]:
        """What a step of the intermediate brings, and its seconds, with the draft below it that brings most a second.

        How often it brings 1, 2, ... tokens, as ``step_models`` has it.
        """
        plain = judged_step_seconds(costs, lower.name, judge.name, "chain", 0, 0)
        best: tuple[tuple[float, ...], float] = (1.0,), plain
        shape: Shape = "tree" if judge.tree and lower.tree else "chain"
        for kind, nodes in draft_sizes(shape, INNER_NODES):
            depth = draft_depth(kind, nodes)
            chances = (agreement,) * depth
            brought = brought_by_chain(chances) if kind == "chain" else brought_by_tree(chances, nodes)
            found = brought, judged_step_seconds(costs, lower.name, judge.name, kind, nodes, depth)
            best = max(best, found, key=lambda each: _mean_tokens(each[0]) / each[1])
        return best

    def _way(self, estimate: StepEstimate, costs: _Costs, shape: Shape, nodes: int) -> Way:
        seconds = estimate.verifying + estimate.drafting + costs.step_seconds
        return Way(estimate.tokens / seconds, shape, nodes)

    def _agreement(self, level: Level, choices: Choices) -> float:
        """As measured at export, less what a window costs."""
        agreement = _UNKNOWN_AGREEMENT if level.agreement is None else level.agreement
        window = max(choices.context / choices.window, 1.0)
        return agreement * math.pow(_WINDOW_FACTOR, math.log2(window))

    def target_seconds(self, choices: Choices, rows: int) -> float:
        """A forward of so many rows through the target, the cache half full."""
        target = self.scene.manifest.target
        slower = max([1.0, *(1 / effect.speed for effect in self._effects_down_to(target, choices.kv_type))])
        return self.times.seconds(target, rows, choices.context // 2) * slower

    def _effects_down_to(self, target: Level, kv_type: str) -> Iterator[KvEffect]:
        """Those of a KV type and of all wider ones: a step down is never counted as a gain.

        Measured with the kernels that are planned alone: other kernels have other graphs.
        """
        types = self.scene.kv_types(target.name)
        kernels = "native" if self.scene.residence(target.name) == "native" else "portable"
        for wider in types[: types.index(kv_type) + 1]:
            effect = target.kv_effects.get(wider)
            if effect is not None and effect.kernels == kernels:
                yield effect


@dataclass(frozen=True)
class _Costs:
    """``step_models.StepCosts`` of the levels as ``choices`` open them, the cache half full.

    As with the target, a narrower cache of a drafter is not counted as a gain.
    """

    predictor: Predictor
    choices: Choices

    @property
    def step_seconds(self) -> float:
        """See ``StepCosts``."""
        return self.predictor.times.step_seconds

    @property
    def node_seconds(self) -> Mapping[Shape, float]:
        """See ``StepCosts``."""
        return self.predictor.times.node_seconds

    def target(self, rows: int) -> float:
        """See ``StepCosts``."""
        return self.predictor.target_seconds(self.choices, rows)

    def forward(self, level: str, rows: int) -> float:
        """See ``StepCosts``."""
        predictor = self.predictor
        return predictor.times.seconds(predictor.scene.levels[level], rows, self.choices.context // 2)


def _mean_tokens(brought: Sequence[float]) -> float:
    return sum(tokens * chance for tokens, chance in enumerate(brought, 1))


def _fastest(ways: Sequence[Way]) -> float:
    return max((way.rate for way in ways), default=0.0)


def draft_sizes(shape: Shape, most: int) -> Iterator[tuple[Shape, int]]:
    """Every draft that a planned one of ``most`` nodes leaves open, largest first; a tree's rows do for chains too."""
    if shape == "tree":
        yield from (("tree", nodes) for nodes in dict.fromkeys((most, *TREE_SIZES)) if 2 <= nodes <= most)
    chains = CHAIN_SIZES if shape == "tree" else dict.fromkeys((most, *CHAIN_SIZES))
    yield from (("chain", nodes) for nodes in chains if nodes <= most)
