"""Decoding methods: a drafter with drafts of one shape, and what a step of it brings and costs.

May be imported: ``DecodingMethod``; ``scheduler.available`` makes the methods of a bundle.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator

from memory.expected import tree_curve, tree_tokens
from memory.overlap import StepSeconds, overlap_step
from memory.plan import Shape
from memory.step_models import (
    StepEstimate,
    brought_by_chain,
    brought_by_tree,
    chain_step,
    draft_seconds,
    hierarchy_step,
    judged_step_seconds,
    seconds_per_token,
    tree_step,
)
from runtime.decoding.draft import NOTHING, PLAIN_NAME, DraftLimit, Step, chain_limit
from runtime.drafters.confidence import ConfidenceCalibration
from runtime.drafters.hierarchy import USUAL_INNER
from runtime.scheduler.acceptance_stats import AcceptanceStats, RunningMean, TreeGain
from runtime.scheduler.forecast import Forecast, Room
from runtime.scheduler.latency import LatencyEstimates

# Before the first step of a drafter without a model: one question in ten brings a draft, of three tokens, of which half
# is accepted.
_HITS, _DRAFTED, _ACCEPTED = 0.1, 3.0, 1.5
# Depths of trees, and drafts of hierarchies for the target and for the intermediate: few enough to weigh them all. With
# the last token, 7 fill the block of rows that kernels run at once.
_DEPTHS = (2, 3, 4, 5)
_LENGTHS = (2, 3, 4, 5, 6, 7, 8, 10, 12)
_INNER = (*map(chain_limit, (1, 2, 3, 5)), DraftLimit(4, 2, "tree"), DraftLimit(8, 3, "tree"))


class DecodingMethod(ABC):
    """One ``drafter`` (None: plain decoding) with drafts of one ``shape``.

    ``levels`` are the models it runs. ``acceptances`` are the statistics it learns; methods may share them.
    """

    shape: Shape = "chain"

    def __init__(
        self, drafter: str | None = None, levels: Iterable[str] = (), acceptances: Iterable[AcceptanceStats] = ()
    ) -> None:
        self.name = PLAIN_NAME if drafter is None else f"{drafter}-{self.shape}"
        self.drafter, self.levels, self.acceptances = drafter, tuple(levels), tuple(acceptances)

    def limits(self, room: Room) -> Iterable[DraftLimit]:
        """The drafts that are worth a forecast: here, chains of every length."""
        return map(chain_limit, range(1, room.nodes + 1))

    @abstractmethod
    def forecast(self, limit: DraftLimit, latency: LatencyEstimates) -> Forecast:
        """The forecast of a step with such a draft."""

    @abstractmethod
    def observe(self, step: Step) -> None:
        """Learns from a step of this method."""


class Plain(DecodingMethod):
    """A single forecast, and nothing to learn."""

    def limits(self, room: Room) -> tuple[DraftLimit, ...]:
        return (NOTHING,)

    def forecast(self, limit: DraftLimit, latency: LatencyEstimates) -> Forecast:
        return Forecast(self.name, None, limit, 1.0, latency.plain())

    def observe(self, step: Step) -> None:
        pass


class ModelFree(DecodingMethod):
    """Forecasts drafts of ``drafter``, of at most ``longest`` tokens: asking costs little, a draft comes at times.

    Drafts of the shape "tree" are chains where the target judges no trees.
    """

    def __init__(self, drafter: str, longest: int, shape: Shape = "chain") -> None:
        self.shape = shape
        super().__init__(drafter)
        self._longest = longest
        self._hits = RunningMean(_HITS)
        self._drafted, self._accepted = RunningMean(_DRAFTED), RunningMean(_ACCEPTED)

    def limits(self, room: Room) -> tuple[DraftLimit, ...]:
        """One, since the drafter itself knows where to end."""
        longest = min(room.nodes, self._longest)
        if not longest:
            return ()
        return (DraftLimit(longest, longest, self.shape if room.trees else "chain"),)

    def forecast(self, limit: DraftLimit, latency: LatencyEstimates) -> Forecast:
        """An average step, with or without a draft."""
        drafted, hits = min(self._drafted.value, limit.nodes), self._hits.value
        verifying = (1 - hits) * latency.target(1) + hits * latency.target(1 + max(1, round(drafted)))
        asking = latency.costs.suffix_seconds + hits * drafted * latency.node_seconds[limit.shape]
        tokens = 1 + hits * min(self._accepted.value, limit.nodes)
        return latency.forecast(self.name, self.drafter, limit, StepEstimate(tokens, verifying, asking, 0.0))

    def observe(self, step: Step) -> None:
        self._hits.observe(step.num_drafted > 0)
        if step.num_drafted:
            self._drafted.observe(step.num_drafted)
            self._accepted.observe(step.num_accepted)


class DraftModel(DecodingMethod):
    """Drafts of ``drafter``, which runs the ``level`` alone, forecast from its ``acceptance`` by depth."""

    def __init__(self, drafter: str, level: str, acceptance: AcceptanceStats) -> None:
        super().__init__(drafter, [level], [acceptance])
        self._level, self._acceptance = level, acceptance

    def observe(self, step: Step) -> None:
        self._acceptance.review(step.reviewed)
        self._acceptance.observe(step.num_accepted, step.num_drafted)


class Chains(DraftModel):
    """Chains of at most ``longest`` tokens. ``calibration`` learns what the drafter's own probabilities mean."""

    def __init__(
        self,
        drafter: str,
        acceptance: AcceptanceStats,
        calibration: ConfidenceCalibration,
        longest: float = math.inf,
    ) -> None:
        super().__init__(drafter, drafter, acceptance)
        self._calibration, self._longest = calibration, longest

    def limits(self, room: Room) -> Iterable[DraftLimit]:
        """Chains of every length."""
        return (limit for limit in super().limits(room) if limit.nodes <= self._longest)

    def forecast(self, limit: DraftLimit, latency: LatencyEstimates) -> Forecast:
        estimate = chain_step(latency, self._level, self._acceptance.chances(limit.depth))
        drafting = seconds_per_token(latency, self._level, estimate, limit.depth) * latency.correction(self.name)
        node_seconds = drafting + (estimate.verifying - latency.target(1)) / limit.depth
        return latency.forecast(self.name, self.drafter, limit, estimate, node_seconds)

    def observe(self, step: Step) -> None:
        super().observe(step)
        for depth, raw in enumerate(step.chances):
            self._calibration.observe(raw, depth < step.num_accepted)


class Trees(DraftModel):
    """Trees: a forward for every depth."""

    shape: Shape = "tree"

    def __init__(self, drafter: str, acceptance: AcceptanceStats) -> None:
        super().__init__(drafter, drafter, acceptance)
        self._gain = TreeGain()
        self._curve: tuple[tuple[float, ...], list[float]] = ((), [])

    def limits(self, room: Room) -> Iterator[DraftLimit]:
        """For several depths every second number of nodes above that of a chain."""
        if room.trees:
            for depth in _DEPTHS:
                for nodes in reversed(range(depth + 1, room.nodes + 1, 2)):  # one curve is for all below
                    yield DraftLimit(nodes, depth, "tree")

    def forecast(self, limit: DraftLimit, latency: LatencyEstimates) -> Forecast:
        tokens = 1 + self._accepted(limit) * self._gain.value
        estimate = tree_step(latency, self._level, limit.depth, limit.nodes, tokens)
        return latency.forecast(self.name, self.drafter, limit, estimate)

    def observe(self, step: Step) -> None:
        self._acceptance.review(step.reviewed)
        if step.main_drafted:
            chances = self._acceptance.chances(step.main_drafted)
            self._gain.observe(step, self._accepted(step.pick.limit), chances)
            self._acceptance.observe(step.main_accepted, step.main_drafted)

    def _accepted(self, limit: DraftLimit) -> float:
        """Nodes that would be accepted if siblings were independent."""
        chances = tuple(self._acceptance.chances(limit.depth))
        if self._curve[0] != chances or len(self._curve[1]) <= limit.nodes:
            self._curve = chances, tree_curve(chances, limit.nodes)
        return self._curve[1][limit.nodes] - 1


class Overlaps(DraftModel):
    """Chains drafted while the target verifies, on other cores (``runtime.drafters.overlapped``)."""

    def forecast(self, limit: DraftLimit, latency: LatencyEstimates) -> Forecast:
        length = limit.depth
        drafting = draft_seconds(latency, self._level, "chain", length + 1, length + 1)
        times = StepSeconds(latency.target(1), latency.target(1 + length), drafting)
        tokens, seconds = overlap_step(self._acceptance.chances(length + 2), times)
        around = latency.step_seconds + length * latency.node_seconds["chain"]
        return Forecast(self.name, self.drafter, limit, tokens, seconds + around)


class Hierarchies(DecodingMethod):
    """Forecasts the drafts of ``drafter``: the second of the ``levels``, an intermediate, sped up by the first.

    ``acceptances`` are of the intermediate by the target, and of the first level by the intermediate; ``inner_room``
    gives the largest draft that the intermediate can judge.
    """

    def __init__(
        self,
        drafter: str,
        levels: tuple[str, str],
        acceptances: tuple[AcceptanceStats, AcceptanceStats],
        inner_room: Callable[[], Room],
    ) -> None:
        super().__init__(drafter, levels, acceptances)
        (self._below, self._middle), (self._outer, self._inner) = levels, acceptances
        self._inner_gain, self._inner_room = TreeGain(), inner_room

    def limits(self, room: Room) -> Iterator[DraftLimit]:
        """Every length for the target with every draft for the intermediate."""
        inner_room = self._inner_room()
        for inner in _INNER:
            if inner.nodes <= inner_room.nodes and (inner.shape == "chain" or inner_room.trees):
                for length in _LENGTHS:
                    if length <= room.nodes:
                        yield chain_limit(length, inner)

    def forecast(self, limit: DraftLimit, latency: LatencyEstimates) -> Forecast:
        inner = limit.inner or USUAL_INNER
        judged = judged_step_seconds(latency, self._below, self._middle, inner.shape, inner.nodes, inner.depth)
        chances = self._outer.chances(limit.depth)
        estimate = hierarchy_step(latency, self._middle, chances, self._brought(inner), judged)
        return latency.forecast(self.name, self.drafter, limit, estimate)

    def observe(self, step: Step) -> None:
        self._outer.observe(step.num_accepted, step.num_drafted)
        for below in step.below:
            limit = below.pick.limit
            if limit.shape == "tree":
                expected = tree_tokens(self._inner.chances(limit.depth), limit.nodes) - 1
                self._inner_gain.observe(below, expected, self._inner.chances(below.main_drafted))
            self._inner.observe(below.main_accepted, below.main_drafted)

    def _brought(self, inner: DraftLimit) -> tuple[float, ...]:
        """The chance that a step of the intermediate brings 1, 2, ... tokens."""
        chances = self._inner.chances(inner.depth)
        if inner.shape == "chain":
            return brought_by_chain(chances)
        return brought_by_tree(chances, inner.nodes, self._inner_gain.value)
