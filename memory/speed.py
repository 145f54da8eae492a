"""Predicted speed: what a forward of k rows costs, how many tokens a draft brings, and so tokens per second.

Costs are those of a device; without any that were measured they are the reference machine's, so that plans can be
compared with one another although seconds on another device differ.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from export.manifest import KvEffect, Level
from memory.choices import CHAIN_SIZES, TREE_SIZES, Choices, Scene
from memory.footprint import hot_weight_bytes, kv_bytes_per_token
from memory.plan import Shape

# Agreement of a drafter that was exported without measuring it: a cautious guess.
_UNKNOWN_AGREEMENT = 0.7
# A drafter that sees half of the conversation agrees this much less often. An assumption; tests hold its sign alone.
_WINDOW_FACTOR = 0.98
# Repetition alone, on text that is not made of repetitions: 1.01 measured on the demo's prompts (README).
_MODEL_FREE_GAIN = 1.01


# Our own work for a node of a draft, beside the forwards: measured on the demo, chains of 3 and trees of 7 (README).
NODE_SECONDS: Mapping[Shape, float] = {"chain": 40e-6, "tree": 150e-6}


@dataclass(frozen=True)
class Costs:
    """What forwards cost on a device, for one kind of kernels.

    ``bandwidth`` in bytes of weights a second for one row, ``layer_seconds`` on top for each layer, ``rows`` maps a
    number of rows to its time relative to one row.
    """

    bandwidth: float
    layer_seconds: float
    rows: Mapping[int, float]

    def seconds(self, level: Level, weights: int, rows: int) -> float:
        """A forward of ``rows`` rows through ``level``, whose step reads ``weights`` bytes."""
        return (weights / self.bandwidth + level.shape.layers * self.layer_seconds) * self._relative(rows)

    def _relative(self, rows: int) -> float:
        """Between the measured numbers of rows on a line, beyond the last one on the same slope."""
        known = sorted(self.rows)
        place = min(max(bisect_right(known, rows) - 1, 0), len(known) - 2)
        low, high = known[place], known[place + 1]
        slope = (self.rows[high] - self.rows[low]) / (high - low)
        return self.rows[low] + slope * (rows - low)


# Two cores of an AMD EPYC with AVX2, at the Qwen2-1.5B shape in int4 blocks of 128 (README, "What a row costs").
REFERENCE: Mapping[str, Costs] = {
    "native": Costs(31e9, 25e-6, {1: 1.0, 2: 1.10, 4: 1.48, 8: 2.79, 16: 5.04}),
    "portable": Costs(20e9, 50e-6, {1: 1.0, 2: 1.21, 4: 2.18, 8: 4.06, 16: 7.84}),
}


def expected_tokens(agreement: float, shape: Shape, nodes: int) -> float:
    """Tokens that a step with a draft of ``nodes`` nodes commits on average, the target's own included.

    The drafter's r-th choice is right with probability a(1-a)^r, whatever came before; a tree has the likeliest nodes,
    as EAGLE-2 grows it (Li et al. 2024), a chain the first choices alone.
    """
    if shape == "chain":
        return sum(agreement**depth for depth in range(nodes + 1))
    total, frontier = 1.0, [-agreement]
    for _ in range(nodes):
        chance = -heapq.heappop(frontier)
        total += chance
        # Its first child, and its next sibling.
        heapq.heappush(frontier, -chance * agreement)
        heapq.heappush(frontier, -chance * (1 - agreement))
    return total


@dataclass(frozen=True)
class Predictor:
    """Predicts the speed of choices on a device whose forwards cost as ``costs`` say, by kind of kernels."""

    scene: Scene
    costs: Mapping[str, Costs] = field(default_factory=lambda: REFERENCE)

    def tokens_per_second(self, choices: Choices) -> float:
        """The fastest way to decode that ``choices`` leave open: plain, model-free, or any draft up to the planned one.

        Speculation that does not pay is not counted as a loss, since nobody has to use it. A narrower KV type is never
        counted as a gain: it is given up for bytes alone, though it may be faster.
        """
        plain = 1 / self._target_seconds(choices, 1)
        if choices.nodes:
            plain *= _MODEL_FREE_GAIN
        rates = (rate for name in choices.drafters for rate, *_ in self._rates(name, choices))
        return max(rates, default=plain) if choices.drafters and choices.nodes else plain

    def best_shape(self, choices: Choices, shape: Shape | None) -> tuple[Shape, int]:
        """The leanest draft, of ``shape`` if that is given, with which ``choices`` are as fast as they can be."""
        rates = [
            rate
            for name in choices.drafters
            for rate in self._rates(name, choices)
            if shape is None or rate[1] == shape
        ]
        fastest = max(rates, key=lambda rate: (rate[0], -rate[2]), default=(0.0, choices.shape, choices.nodes))
        return fastest[1], fastest[2]

    def _rates(self, name: str, choices: Choices) -> Iterator[tuple[float, Shape, int]]:
        """Tokens a second with drafts by ``name`` of every size that is planned, and no less than without drafts."""
        level = self.scene.levels[name]
        agreement = _UNKNOWN_AGREEMENT if level.agreement is None else level.agreement
        window = max(choices.context / choices.window, 1.0)
        agreement *= _WINDOW_FACTOR ** math.log2(window)
        plain = 1 / self._target_seconds(choices, 1)
        for shape, nodes in draft_sizes(choices.shape, choices.nodes):
            # A tree is grown level by level, a chain token by token: one forward of the drafter each.
            depth = nodes if shape == "chain" else nodes.bit_length()
            seconds = self._target_seconds(choices, nodes + 1) + depth * self._drafter_seconds(level, choices)
            seconds += nodes * NODE_SECONDS[shape]
            yield max(expected_tokens(agreement, shape, nodes) / seconds, plain), shape, nodes

    def _drafter_seconds(self, level: Level, choices: Choices) -> float:
        """A forward of one row. As with the target, a narrower cache is not counted as a gain."""
        residence = self.scene.residence(level.name)
        kv = choices.context // 2 * kv_bytes_per_token(level.shape, "fp32", residence)
        return self._costs(level.name).seconds(level, hot_weight_bytes(level, residence) + kv, 1)

    def _target_seconds(self, choices: Choices, rows: int) -> float:
        """A forward of so many rows through the target, the cache half full."""
        target = self.scene.manifest.target
        residence = self.scene.residence(target.name)
        kv = choices.context // 2 * kv_bytes_per_token(target.shape, "fp32", residence)
        slower = max([1.0, *(1 / effect.speed for effect in self._effects_down_to(target, choices.kv_type))])
        return self._costs(target.name).seconds(target, hot_weight_bytes(target, residence) + kv, rows) * slower

    def _effects_down_to(self, target: Level, kv_type: str) -> Iterator[KvEffect]:
        """Those of a KV type and of all wider ones: a step down is never counted as a gain.

        Measured with the kernels that are planned alone: other kernels have other graphs.
        """
        types = self.scene.kv_types(target.name)
        for wider in types[: types.index(kv_type) + 1]:
            effect = target.kv_effects.get(wider)
            if effect is not None and effect.kernels == self._kernels(target.name):
                yield effect

    def _costs(self, name: str) -> Costs:
        return self.costs[self._kernels(name)]

    def _kernels(self, name: str) -> str:
        return "native" if self.scene.residence(name) == "native" else "portable"


def draft_sizes(shape: Shape, most: int) -> Iterator[tuple[Shape, int]]:
    """Every draft that a planned one of ``most`` nodes leaves open, largest first; a tree's rows do for chains too."""
    if shape == "tree":
        yield from (("tree", nodes) for nodes in TREE_SIZES if nodes <= most)
    yield from (("chain", nodes) for nodes in dict.fromkeys((most, *CHAIN_SIZES)) if nodes <= most)
