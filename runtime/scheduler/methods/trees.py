"""Trees of one draft model, grown level by level: one forward of it for every level."""

from __future__ import annotations

from collections.abc import Iterator

from memory.expected import tree_curve
from memory.plan import Shape
from memory.step_models import tree_step
from runtime.decoding.draft import DraftLimit, Step
from runtime.scheduler.acceptance_stats import AcceptanceStats, TreeGain
from runtime.scheduler.forecast import Forecast, Room
from runtime.scheduler.latency import LatencyEstimates

_DEPTHS = (2, 3, 4, 5)


class Trees:
    """Forecasts tree drafts of the level ``drafter`` from the ``acceptance`` of its chains."""

    def __init__(self, drafter: str, acceptance: AcceptanceStats) -> None:
        self.name = f"{drafter}-tree"
        self.shape: Shape = "tree"
        self.drafter: str | None = drafter
        self.levels: tuple[str, ...] = (drafter,)
        self.acceptances: tuple[AcceptanceStats, ...] = (acceptance,)
        self._level, self._acceptance = drafter, acceptance
        self._gain = TreeGain()
        self._curve: tuple[tuple[float, ...], list[float]] = ((), [])

    def limits(self, room: Room) -> Iterator[DraftLimit]:
        """See ``DecodingMethod``: for several depths every second number of nodes above that of a chain."""
        if room.trees:
            for depth in _DEPTHS:
                for nodes in range(depth + 1, room.nodes + 1, 2):
                    yield DraftLimit(nodes, depth, "tree")

    def forecast(self, limit: DraftLimit, latency: LatencyEstimates) -> Forecast:
        """See ``DecodingMethod``."""
        nodes, depth = limit.nodes, limit.depth
        tokens = 1 + self._accepted(depth, nodes) * self._gain.value
        return latency.forecast(self.name, self.drafter, limit, tree_step(latency, self._level, depth, nodes, tokens))

    def observe(self, step: Step) -> None:
        """See ``DecodingMethod``."""
        if step.depth:
            self._gain.observe(step.num_accepted, self._accepted(step.pick.limit.depth, step.pick.limit.nodes))
            # Behind the first token a tree is deep only where the drafter is sure: that says nothing about chains.
            self._acceptance.observe_first(step.first_accepted)

    def _accepted(self, depth: int, nodes: int) -> float:
        """Nodes that would be accepted if siblings were independent."""
        chances = tuple(self._acceptance.chances(depth))
        if self._curve[0] != chances or len(self._curve[1]) <= nodes:
            self._curve = chances, tree_curve(chances, nodes)
        return self._curve[1][nodes] - 1
