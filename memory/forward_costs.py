"""What a forward costs: as measured on this device, or else derived from a reference machine.

Seconds derived from the reference machine are wrong on another device; plans can still be compared with one another.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from export.manifest import Level
from memory.choices import PlanInputs
from memory.costs import MeasuredCosts
from memory.experts import expert_bytes, read_share
from memory.footprint import hot_weight_bytes, kv_bytes_per_token
from memory.plan import Shape

# Seconds of the reference machine for each node of a draft, beside forwards: measured on the demo, with chains of 3 and
# trees of 7.
NODE_SECONDS: Mapping[Shape, float] = {"chain": 40e-6, "tree": 150e-6}


@dataclass(frozen=True)
class ReferenceMachine:
    """What forwards cost on the reference machine, with one kind of kernels.

    A forward of one row takes its bytes of weights over ``bandwidth`` (bytes a second) and ``layer_seconds`` for each
    layer. ``rows`` maps numbers of rows to their cost relative to one row. An expert runs the rows that chose it.
    """

    bandwidth: float
    layer_seconds: float
    rows: Mapping[int, float]

    def seconds(self, level: Level, read_bytes: int, rows: int, expert_bytes: int = 0) -> float:
        """A forward of ``rows`` rows through ``level``: it reads ``read_bytes`` of weights and cache, and of the
        ``expert_bytes`` of all experts what it is expected to use.
        """
        always = (read_bytes / self.bandwidth + level.shape.layers * self.layer_seconds) * self._relative(rows)
        experts = level.shape.experts
        if experts is None:
            return always
        share = read_share(experts, rows)
        rows_of_each = rows * experts.used / (experts.count * share)
        return always + expert_bytes * share / self.bandwidth * self._relative(rows_of_each)

    def _relative(self, rows: float) -> float:
        """Interpolated between the known numbers of rows, extrapolated beyond the last."""
        known = sorted(self.rows)
        place = min(max(bisect_right(known, rows) - 1, 0), len(known) - 2)
        low, high = known[place], known[place + 1]
        slope = (self.rows[high] - self.rows[low]) / (high - low)
        return self.rows[low] + slope * (rows - low)


# Two cores of an AMD EPYC with AVX2, at the Qwen2-1.5B shape in int4 with blocks of 128.
REFERENCE: Mapping[str, ReferenceMachine] = {
    "native": ReferenceMachine(31e9, 25e-6, {1: 1.0, 2: 1.10, 4: 1.48, 8: 2.79, 16: 5.04}),
    "portable": ReferenceMachine(20e9, 50e-6, {1: 1.0, 2: 1.21, 4: 2.18, 8: 4.06, 16: 7.84}),
}


class ForwardCosts(Protocol):
    """Seconds of forwards; beside them ``step_seconds`` for every step and ``node_seconds`` for every node by shape."""

    @property
    def step_seconds(self) -> float: ...

    @property
    def node_seconds(self) -> Mapping[Shape, float]: ...

    def seconds(self, level: Level, rows: int, context: int) -> float:
        """A forward of ``rows`` rows behind ``context`` rows of cache."""
        ...


@dataclass(frozen=True)
class ReferenceCosts:
    """Costs on the reference machine, derived from a level's bytes; its KV cache is taken to be one of fp32."""

    inputs: PlanInputs
    step_seconds: float = 0.0

    @property
    def node_seconds(self) -> Mapping[Shape, float]:
        """See ``ForwardCosts``."""
        return NODE_SECONDS

    def seconds(self, level: Level, rows: int, context: int) -> float:
        """See ``ForwardCosts``."""
        residence = self.inputs.residence(level.name)
        kv = context * kv_bytes_per_token(level.shape, "fp32", residence)
        machine = REFERENCE["native" if residence == "native" else "portable"]
        weights, experts = hot_weight_bytes(level, residence), expert_bytes(level, residence)
        if (heads := level.heads) is not None:  # a row of a draft reads one head, about so much of them
            run = min(rows, heads.count) if heads.together else 1
            return machine.seconds(level, weights * run // heads.count, 1 if heads.together else rows)
        return machine.seconds(level, weights - experts + kv, rows, experts)


@dataclass(frozen=True)
class DeviceCosts:
    """Costs measured on this device. A level that was not measured has the reference's, scaled as the target's are."""

    inputs: PlanInputs
    costs: MeasuredCosts

    @property
    def step_seconds(self) -> float:
        """See ``ForwardCosts``."""
        return self.costs.step_seconds

    @property
    def node_seconds(self) -> Mapping[Shape, float]:
        """See ``ForwardCosts``."""
        return self.costs.node_seconds

    def seconds(self, level: Level, rows: int, context: int) -> float:
        """See ``ForwardCosts``."""
        measured = self.costs.levels.get(level.name)
        if measured is not None:
            return measured.seconds(rows, context)
        return self._reference.seconds(level, rows, context) * self._slowdown

    @cached_property
    def _reference(self) -> ReferenceCosts:
        return ReferenceCosts(self.inputs)

    @cached_property
    def _slowdown(self) -> float:
        """Seconds of one row of the target here, relative to the reference machine."""
        target = self.inputs.manifest.target
        if target.name not in self.costs.levels:
            return 1.0
        return self.seconds(target, 1, 0) / self._reference.seconds(target, 1, 0)


@dataclass(frozen=True)
class CachedCosts:
    """Other costs, computed once for each forward: the rungs of a ladder have most forwards in common."""

    inner: ForwardCosts
    _known: dict[tuple[str, int, int], float] = field(default_factory=dict)

    @property
    def step_seconds(self) -> float:
        """See ``ForwardCosts``."""
        return self.inner.step_seconds

    @property
    def node_seconds(self) -> Mapping[Shape, float]:
        """See ``ForwardCosts``."""
        return self.inner.node_seconds

    def seconds(self, level: Level, rows: int, context: int) -> float:
        """See ``ForwardCosts``."""
        key = (level.name, rows, context)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self.inner.seconds(level, rows, context)
        return known


def forward_costs(inputs: PlanInputs, costs: MeasuredCosts | None) -> ForwardCosts:
    """The measured ``costs`` if they are of the kernels that will run the target, else the reference machine's."""
    kernels = "native" if inputs.residence(inputs.manifest.target.name) == "native" else "portable"
    if costs is None or costs.kernels != kernels:
        return CachedCosts(ReferenceCosts(inputs))
    return CachedCosts(DeviceCosts(inputs, costs))
