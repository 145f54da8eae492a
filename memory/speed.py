"""Predicted speed: how many tokens a draft brings for the forwards it costs, and so tokens per second.

Of three levels, a drafter guesses for an intermediate, and what that one says is the draft for the target (SpecMQuant,
arXiv 2505.22179). How often a drafter agrees with an intermediate is not measured at export: its agreement with the
target stands for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from export.manifest import KvEffect, Level
from memory.choices import CHAIN_SIZES, INNER_NODES, TREE_SIZES, Choices, Scene
from memory.expected import chain_tokens, tree_tokens
from memory.plan import Shape
from memory.reference import Times

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
        return 1 / (self._target_seconds(choices, rows) + self.times.step_seconds)

    def _ways(self, choices: Choices, agreement: float | None = None) -> Iterator[Way]:
        """Every way that ``choices`` leave open; ``agreement`` of all drafters, None: each its own."""
        for name in choices.drafters:
            yield from self._drafts(name, choices, agreement)
            if self.scene.levels[name].role == "intermediate":
                yield from self._hierarchies(name, choices, agreement)

    def _drafts(self, name: str, choices: Choices, agreement: float | None) -> Iterator[Way]:
        """Drafts by ``name`` alone, of every size that is planned."""
        level = self.scene.levels[name]
        agreement = self._agreement(level, choices) if agreement is None else agreement
        for shape, nodes in draft_sizes(choices.shape, choices.nodes):
            if shape == "tree" and not level.tree:
                continue
            seconds = self._verifying(choices, shape, nodes) + self._drafting(level, choices, shape, nodes)
            yield Way(expected_tokens(agreement, shape, nodes) / seconds, shape, nodes)

    def _hierarchies(self, middle: str, choices: Choices, agreement: float | None) -> Iterator[Way]:
        """Chains by ``middle``, with each of the drafters below it: every length with the inner draft that is best."""
        judge = self.scene.levels[middle]
        outer = self._agreement(judge, choices) if agreement is None else agreement
        for name in choices.drafters:
            lower = self.scene.levels[name]
            if lower.role != "drafter":
                continue
            inner = self._agreement(lower, choices) if agreement is None else agreement
            brought, spent = self._inner_step(judge, lower, inner, choices)
            # After a draft that was accepted as a whole, the intermediate lacks a token: one row more.
            catching_up = self._seconds(judge, choices, 2) - self._seconds(judge, choices, 1)
            for length in (nodes for shape, nodes in draft_sizes("chain", choices.nodes) if nodes > 1):
                # The last step inside may bring more tokens than are wanted: half of what one brings, on average.
                steps = max(1.0, (length + (brought - 1) / 2) / brought)
                seconds = self._verifying(choices, "chain", length) + steps * spent + outer**length * catching_up
                yield Way(expected_tokens(outer, "chain", length) / seconds, "chain", length)

    def _inner_step(self, judge: Level, lower: Level, agreement: float, choices: Choices) -> tuple[float, float]:
        """Tokens and seconds of one step of the intermediate, with the draft below it that brings most a second."""
        best = (1.0, self._seconds(judge, choices, 1) + self.times.step_seconds)
        shape: Shape = "tree" if judge.tree and lower.tree else "chain"
        for kind, nodes in draft_sizes(shape, INNER_NODES):
            seconds = self._seconds(judge, choices, nodes + 1) + self._drafting(lower, choices, kind, nodes)
            seconds += self.times.step_seconds + nodes * self.times.node_seconds[kind]
            tokens = expected_tokens(agreement, kind, nodes)
            if tokens / seconds > best[0] / best[1]:
                best = (tokens, seconds)
        return best

    def _verifying(self, choices: Choices, shape: Shape, nodes: int) -> float:
        """The target's forward over a draft, and our own work for it."""
        return (
            self._target_seconds(choices, nodes + 1) + nodes * self.times.node_seconds[shape] + self.times.step_seconds
        )

    def _drafting(self, level: Level, choices: Choices, shape: Shape, nodes: int) -> float:
        """A chain takes a forward for every token, a tree one for every level, over all nodes above it."""
        depth = draft_depth(shape, nodes)
        rows: Sequence[int] = [1] * depth
        if shape == "tree":
            rows = [max(1, nodes * above // depth) for above in range(depth)]
        return sum(self._seconds(level, choices, count) for count in rows)

    def _agreement(self, level: Level, choices: Choices) -> float:
        """As measured at export, less what a window costs."""
        agreement = _UNKNOWN_AGREEMENT if level.agreement is None else level.agreement
        window = max(choices.context / choices.window, 1.0)
        return agreement * math.pow(_WINDOW_FACTOR, math.log2(window))

    def _seconds(self, level: Level, choices: Choices, rows: int) -> float:
        """A forward of a level beside the target. As with the target, a narrower cache is not counted as a gain."""
        return self.times.seconds(level, rows, choices.context // 2)

    def _target_seconds(self, choices: Choices, rows: int) -> float:
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


def _fastest(ways: Sequence[Way]) -> float:
    return max((way.rate for way in ways), default=0.0)


def draft_sizes(shape: Shape, most: int) -> Iterator[tuple[Shape, int]]:
    """Every draft that a planned one of ``most`` nodes leaves open, largest first; a tree's rows do for chains too."""
    if shape == "tree":
        yield from (("tree", nodes) for nodes in dict.fromkeys((most, *TREE_SIZES)) if 2 <= nodes <= most)
    chains = CHAIN_SIZES if shape == "tree" else dict.fromkeys((most, *CHAIN_SIZES))
    yield from (("chain", nodes) for nodes in chains if nodes <= most)
