"""Predicted speed: the tokens per second of choices, from what drafts bring and what forwards cost.

``step_models`` has the arithmetic of a step. Here are its inputs: how often drafters agree with the target, which sizes
of drafts a plan leaves open, and what forwards cost with the planned KV cache. How often a drafter agrees with an
intermediate is not measured at export; its agreement with the target is used instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from export.manifest import KvEffect, Level
from memory.choices import CHAIN_SIZES, INNER_NODES, TREE_SIZES, Choices, PlanInputs
from memory.expected import chain_tokens, tree_tokens
from memory.forward_costs import ForwardCosts
from memory.plan import Shape
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
# Halving the window of a drafter multiplies its agreement by this. An assumption: tests hold its sign alone.
_WINDOW_FACTOR = 0.98
# Speed of the suffix drafter alone, on text that is not made of repetitions: 1.01 measured on the demo's prompts.
_MODEL_FREE_GAIN = 1.01
# Texts differ, from those where a drafter hardly agrees to those where it nearly always does; its average does not say.
_AGREEMENTS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
# A tree needs more memory than a chain of as many nodes. It is planned if it promises so much more speed.
_TREE_GAIN = 1.02
# Drafts that reach this share of the best rate count as good as the best: predictions are not more certain than that,
# and extra rows may be cheaper on another device than on the reference machine.
_NEARLY = 0.95


class PredictedDraft(NamedTuple):
    """A kind of draft, ``nodes`` in ``shape``, and the tokens per second (``rate``) that are expected with it."""

    rate: float
    shape: Shape
    nodes: int


@cache
def expected_tokens(agreement: float, shape: Shape, nodes: int) -> float:
    """Tokens that a step with a draft of ``nodes`` nodes commits on average, the target's own included.

    The drafter's first choice is taken to be right with probability ``agreement`` at every depth.
    """
    if shape == "chain":
        return chain_tokens([agreement] * nodes)
    return tree_tokens([agreement] * draft_depth(shape, nodes), nodes)


def draft_depth(shape: Shape, nodes: int) -> int:
    """Tokens along the longest path of a draft: all of a chain; a tree is as deep as a full binary one."""
    return nodes if shape == "chain" else nodes.bit_length()


@dataclass(frozen=True)
class Predictor:
    """Predicts the speed of choices on a device whose forwards cost ``costs``."""

    inputs: PlanInputs
    costs: ForwardCosts

    def tokens_per_second(self, choices: Choices) -> float:
        """The rate of the fastest decoding method that ``choices`` leave open.

        Open are plain decoding, the suffix drafter, and any draft up to the planned size. Speculation that does not pay
        costs nothing, since nobody has to use it. A narrower KV type is never counted as a gain, though it may be
        faster: it is given up for its bytes alone.
        """
        plain = self._plain(choices)
        if not choices.nodes:
            return plain
        return max([plain * _MODEL_FREE_GAIN, *(draft.rate for draft in self._drafts(choices))])

    def best_hierarchy(self, choices: Choices, middle: str) -> float:
        """Tokens per second with the best of the planned drafters below level ``middle``; 0 if there is none."""
        return max((draft.rate for draft in self._hierarchies(middle, choices, None)), default=0.0)

    def best_shape(self, choices: Choices, shape: Shape | None) -> tuple[Shape, int]:
        """The smallest draft, of ``shape`` if that is given, with which ``choices`` are as fast as they can be."""
        drafts = [draft for draft in self._drafts(choices) if shape in (None, draft.shape)]
        best = max(drafts, key=lambda draft: (max(draft.rate, self._plain(choices)), -draft.nodes), default=None)
        return (best.shape, best.nodes) if best is not None else (choices.shape, choices.nodes)

    def room(self, choices: Choices, shape: Shape | None) -> tuple[Shape, int]:
        """The draft size, of ``shape`` if that is given, that has room for what would be fast on any text.

        The runtime adapts the size to the text, up to the planned one. A tree has room for chains as well.
        """
        found: Shape = shape or "chain"
        plain, most = self._plain(choices), 1
        for agreement in _AGREEMENTS:
            allowed = [draft for draft in self._drafts(choices, agreement) if shape in (None, draft.shape)]
            paying = [draft for draft in allowed if draft.rate > plain]
            drafts = [draft for draft in paying if draft.shape == "chain"]
            if _fastest(paying) > _TREE_GAIN * _fastest(drafts):
                drafts, found = paying, "tree"
            most = max([most, *(draft.nodes for draft in drafts if draft.rate >= _NEARLY * _fastest(drafts))])
        return found, most

    def _plain(self, choices: Choices) -> float:
        """The rate without drafts; with a fixed width every step has as many rows as the largest draft."""
        rows = choices.nodes + 1 if self.inputs.request.fixed_width else 1
        return 1 / (self.target_seconds(choices, rows) + self.costs.step_seconds)

    def _drafts(self, choices: Choices, agreement: float | None = None) -> Iterator[PredictedDraft]:
        """Every draft that ``choices`` leave open. All drafters have ``agreement``; None: each its own."""
        for name in choices.drafters:
            yield from self._drafts_of(name, choices, agreement)
            if self.inputs.levels[name].role == "intermediate":
                yield from self._hierarchies(name, choices, agreement)

    def _drafts_of(self, name: str, choices: Choices, agreement: float | None) -> Iterator[PredictedDraft]:
        """Drafts by level ``name`` alone, of every size up to the planned one."""
        level = self.inputs.levels[name]
        agreement, costs = self._agreement(level, choices) if agreement is None else agreement, _Costs(self, choices)
        for shape, nodes in draft_sizes(choices.shape, choices.nodes):
            depth = draft_depth(shape, nodes)
            if (shape == "tree" and not level.drafts_trees) or depth > level.longest:
                continue
            if shape == "chain":
                estimate = chain_step(costs, name, [agreement] * depth)
            else:
                estimate = tree_step(costs, name, depth, nodes, expected_tokens(agreement, shape, nodes))
            yield self._predict(estimate, costs, shape, nodes)

    def _hierarchies(self, middle: str, choices: Choices, agreement: float | None) -> Iterator[PredictedDraft]:
        """Chains by the intermediate ``middle``, of every length, with each of the drafters below it."""
        judge = self.inputs.levels[middle]
        outer = self._agreement(judge, choices) if agreement is None else agreement
        for name in choices.drafters:
            lower = self.inputs.levels[name]
            if lower.role != "drafter" or lower.reads:
                continue
            inner = self._agreement(lower, choices) if agreement is None else agreement
            costs = _Costs(self, choices)
            brought, seconds = self._inner_step(judge, lower, inner, costs)
            for length in (nodes for shape, nodes in draft_sizes("chain", choices.nodes) if nodes > 1):
                estimate = hierarchy_step(costs, middle, [outer] * length, brought, seconds)
                yield self._predict(estimate, costs, "chain", length)

    def _inner_step(
        self, judge: Level, lower: Level, agreement: float, costs: _Costs
    ) -> tuple[tuple[float, ...], float]:
        """A step of the intermediate with the best draft below it, that with the most tokens per second; maybe none.

        Returns the chances that the step brings 1, 2, ... tokens, and its seconds.
        """
        plain = judged_step_seconds(costs, lower.name, judge.name, "chain", 0, 0)
        best: tuple[tuple[float, ...], float] = (1.0,), plain
        shape: Shape = "tree" if judge.tree and lower.drafts_trees else "chain"
        for kind, nodes in draft_sizes(shape, lower.chain_within(INNER_NODES)):
            depth = draft_depth(kind, nodes)
            chances = (agreement,) * depth
            brought = brought_by_chain(chances) if kind == "chain" else brought_by_tree(chances, nodes)
            found = brought, judged_step_seconds(costs, lower.name, judge.name, kind, nodes, depth)
            best = max(best, found, key=lambda each: _mean_tokens(each[0]) / each[1])
        return best

    def _predict(self, estimate: StepEstimate, costs: _Costs, shape: Shape, nodes: int) -> PredictedDraft:
        seconds = estimate.verifying + estimate.drafting + costs.step_seconds
        return PredictedDraft(estimate.tokens / seconds, shape, nodes)

    def _agreement(self, level: Level, choices: Choices) -> float:
        """The agreement measured at export, less what the drafter's window costs."""
        agreement = _UNKNOWN_AGREEMENT if level.agreement is None else level.agreement
        window = max(choices.context / choices.window, 1.0)
        return agreement * math.pow(_WINDOW_FACTOR, math.log2(window))

    def target_seconds(self, choices: Choices, rows: int) -> float:
        """A forward of ``rows`` rows through the target, behind half of the planned context."""
        target = self.inputs.manifest.target
        slower = max([1.0, *(1 / effect.speed for effect in self._effects_down_to(target, choices.kv_type))])
        return self.costs.seconds(target, rows, choices.context // 2) * slower

    def _effects_down_to(self, target: Level, kv_type: str) -> Iterator[KvEffect]:
        """The effects of ``kv_type`` and of all wider KV types: the slowest counts, so that no step down is a gain.

        Effects measured with other kernels than the planned ones say nothing: those have other graphs.
        """
        types = self.inputs.kv_types(target.name)
        kernels = "native" if self.inputs.residence(target.name) == "native" else "portable"
        for wider in types[: types.index(kv_type) + 1]:
            effect = target.kv_effects.get(wider)
            if effect is not None and effect.kernels == kernels:
                yield effect


@dataclass(frozen=True)
class _Costs:
    """``step_models.StepCosts`` of the levels as ``choices`` open them, behind half of the planned context.

    As with the target, a narrower cache of a drafter is not counted as a gain.
    """

    predictor: Predictor
    choices: Choices

    @property
    def step_seconds(self) -> float:
        """See ``StepCosts``."""
        return self.predictor.costs.step_seconds

    @property
    def node_seconds(self) -> Mapping[Shape, float]:
        """See ``StepCosts``."""
        return self.predictor.costs.node_seconds

    def target(self, rows: int) -> float:
        """See ``StepCosts``."""
        return self.predictor.target_seconds(self.choices, rows)

    def forward(self, level: str, rows: int) -> float:
        """See ``StepCosts``."""
        predictor = self.predictor
        return predictor.costs.seconds(predictor.inputs.levels[level], rows, self.choices.context // 2)

    def drafts_in_parallel(self, level: str) -> bool:
        """See ``StepCosts``."""
        return self.predictor.inputs.levels[level].drafts_in_parallel


def _mean_tokens(brought: Sequence[float]) -> float:
    return sum(tokens * chance for tokens, chance in enumerate(brought, 1))


def _fastest(drafts: Sequence[PredictedDraft]) -> float:
    return max((draft.rate for draft in drafts), default=0.0)


def draft_sizes(shape: Shape, most: int) -> Iterator[tuple[Shape, int]]:
    """The drafts that a planned one of ``most`` nodes in ``shape`` leaves open, the largest first.

    The rows of a tree are enough for chains, too.
    """
    if shape == "tree":
        yield from (("tree", nodes) for nodes in dict.fromkeys((most, *TREE_SIZES)) if 2 <= nodes <= most)
    chains = CHAIN_SIZES if shape == "tree" else dict.fromkeys((most, *CHAIN_SIZES))
    yield from (("chain", nodes) for nodes in chains if nodes <= most)
