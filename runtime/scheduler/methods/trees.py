"""Trees of one draft model, grown level by level: one forward of it for every level."""

from __future__ import annotations

from collections.abc import Iterator

from memory.expected import tree_curve
from memory.plan import Shape
from memory.step_models import tree_step
from runtime.decoding.draft import DraftLimit, Step, tree_limit
from runtime.scheduler.acceptance_stats import AcceptanceStats, RunningMean
from runtime.scheduler.forecast import Forecast, Room
from runtime.scheduler.latency import LatencyEstimates
from runtime.scheduler.methods import DecodingMethod


class Trees(DecodingMethod):
    """Forecasts tree drafts of the level ``drafter`` from the ``acceptance`` of its chains."""

    shape: Shape = "tree"

    def __init__(self, drafter: str, acceptance: AcceptanceStats) -> None:
        super().__init__(drafter, [drafter], [acceptance])
        self._level, self._acceptance = drafter, acceptance
        # Accepted nodes over those that would be if siblings were independent.
        self._gain = RunningMean(1.0)
        self._curve: tuple[tuple[float, ...], list[float]] = ((), [])

    def limits(self, room: Room) -> Iterator[DraftLimit]:
        """Trees of all sizes, none of which is a chain."""
        return map(tree_limit, range(3, room.nodes + 1 if room.trees else 0))

    def forecast(self, limit: DraftLimit, latency: LatencyEstimates) -> Forecast:
        tokens = 1 + self._accepted(limit) * self._gain.value
        estimate = tree_step(latency, self._level, limit.depth, limit.nodes, tokens)
        return latency.forecast(self.name, self.drafter, limit, estimate)

    def observe(self, step: Step) -> None:
        if step.depth:
            self._gain.observe(step.num_accepted, self._accepted(step.pick.limit))
            # Behind the first token a tree is deep only where the drafter is sure: that says nothing about chains.
            self._acceptance.observe_first(step.first_accepted)

    def _accepted(self, limit: DraftLimit) -> float:
        """Nodes that would be accepted if siblings were independent."""
        chances = tuple(self._acceptance.chances(limit.depth))
        if self._curve[0] != chances or len(self._curve[1]) <= limit.nodes:
            self._curve = chances, tree_curve(chances, limit.nodes)
        return self._curve[1][limit.nodes] - 1
