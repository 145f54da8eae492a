"""What a forward costs, from two sources: measured on this device, or derived from a reference machine's.

Without measurements plans can still be compared with one another, although seconds on another device differ.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from export.manifest import Level
from memory.choices import Scene
from memory.costs import MeasuredCosts
from memory.footprint import hot_weight_bytes, kv_bytes_per_token
from memory.plan import Shape

# The reference machine's own work for a node of a draft, beside the forwards: measured on the demo, chains of 3 and
# trees of 7 (README).
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


class Times(Protocol):
    """One source of costs: ``step_seconds`` for every step and ``node_seconds`` for every node are beside forwards."""

    @property
    def step_seconds(self) -> float: ...

    @property
    def node_seconds(self) -> Mapping[Shape, float]: ...

    def seconds(self, level: Level, rows: int, context: int) -> float:
        """A forward of ``rows`` rows behind ``context`` rows of cache."""
        ...


@dataclass(frozen=True)
class ReferenceTimes:
    """The reference machine's, by kind of kernels: a level's bytes at its bandwidth. The cache is one of fp32."""

    scene: Scene
    step_seconds: float = 0.0

    @property
    def node_seconds(self) -> Mapping[Shape, float]:
        """See ``Times``."""
        return NODE_SECONDS

    def seconds(self, level: Level, rows: int, context: int) -> float:
        """See ``Times``."""
        residence = self.scene.residence(level.name)
        kv = context * kv_bytes_per_token(level.shape, "fp32", residence)
        costs = REFERENCE["native" if residence == "native" else "portable"]
        return costs.seconds(level, hot_weight_bytes(level, residence) + kv, rows)


@dataclass(frozen=True)
class MeasuredTimes:
    """This device's, where a level was measured; of others the reference's, scaled as the target's are."""

    scene: Scene
    costs: MeasuredCosts

    @property
    def step_seconds(self) -> float:
        """See ``Times``."""
        return self.costs.step_seconds

    @property
    def node_seconds(self) -> Mapping[Shape, float]:
        """See ``Times``."""
        return self.costs.node_seconds

    def seconds(self, level: Level, rows: int, context: int) -> float:
        """See ``Times``."""
        measured = self.costs.levels.get(level.name)
        if measured is not None:
            return measured.seconds(rows, context)
        return self._reference.seconds(level, rows, context) * self._slower

    @cached_property
    def _reference(self) -> ReferenceTimes:
        return ReferenceTimes(self.scene)

    @cached_property
    def _slower(self) -> float:
        """How many times as long this device takes as the reference machine, for one row of the target."""
        target = self.scene.manifest.target
        if target.name not in self.costs.levels:
            return 1.0
        return self.seconds(target, 1, 0) / self._reference.seconds(target, 1, 0)


@dataclass(frozen=True)
class Remembered:
    """Another source, asked once for everything: the rungs of a ladder have most forwards in common."""

    times: Times
    _known: dict[tuple[str, int, int], float] = field(default_factory=dict)

    @property
    def step_seconds(self) -> float:
        """See ``Times``."""
        return self.times.step_seconds

    @property
    def node_seconds(self) -> Mapping[Shape, float]:
        """See ``Times``."""
        return self.times.node_seconds

    def seconds(self, level: Level, rows: int, context: int) -> float:
        """See ``Times``."""
        key = (level.name, rows, context)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self.times.seconds(level, rows, context)
        return known


def make_times(scene: Scene, costs: MeasuredCosts | None) -> Times:
    """The source for a scene: ``costs`` if they were measured with the kernels that will run the target."""
    kernels = "native" if scene.residence(scene.manifest.target.name) == "native" else "portable"
    if costs is None or costs.kernels != kernels:
        return Remembered(ReferenceTimes(scene))
    return Remembered(MeasuredTimes(scene, costs))
