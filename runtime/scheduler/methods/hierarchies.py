"""Hierarchies: an intermediate model drafts chains for the target, sped up by a drafter below it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from memory.step_models import brought_by_chain, brought_by_tree, hierarchy_step, judged_step_seconds
from runtime.decoding.draft import DraftLimit, Step, chain_limit
from runtime.drafters.hierarchy import USUAL_INNER
from runtime.scheduler.acceptance_stats import AcceptanceStats
from runtime.scheduler.forecast import Forecast, Room
from runtime.scheduler.latency import LatencyEstimates
from runtime.scheduler.methods import DecodingMethod


class Hierarchies(DecodingMethod):
    """Forecasts the drafts of ``drafter``: the level ``middle``, sped up by the level ``below``.

    ``outer`` is what the target accepts of ``middle``, ``inner`` what that accepts of ``below``; ``inner_room`` gives
    the largest draft that ``middle`` can judge.
    """

    def __init__(
        self,
        drafter: str,
        below: str,
        middle: str,
        outer: AcceptanceStats,
        inner: AcceptanceStats,
        inner_room: Callable[[], Room],
    ) -> None:
        super().__init__(drafter, [below, middle], [outer, inner])
        self._below, self._middle = below, middle
        self._outer, self._inner, self._inner_room = outer, inner, inner_room

    def limits(self, room: Room) -> Iterator[DraftLimit]:
        """Every second length for the target with short chains for the intermediate: few enough to weigh them all."""
        for inner in range(1, min(self._inner_room().nodes, USUAL_INNER.nodes) + 1):
            for length in range(2, room.nodes + 1, 2):
                yield chain_limit(length, chain_limit(inner))

    def forecast(self, limit: DraftLimit, latency: LatencyEstimates) -> Forecast:
        inner = limit.inner or USUAL_INNER
        judged = judged_step_seconds(latency, self._below, self._middle, inner.shape, inner.nodes, inner.depth)
        chances = self._outer.chances(limit.depth)
        below = tuple(self._inner.chances(inner.depth))
        # The chance that a step of the intermediate brings 1, 2, ... tokens.
        brought = brought_by_chain(below) if inner.shape == "chain" else brought_by_tree(below, inner.nodes)
        estimate = hierarchy_step(latency, self._middle, chances, brought, judged)
        return latency.forecast(self.name, self.drafter, limit, estimate)

    def observe(self, step: Step) -> None:
        self._outer.observe(step.num_accepted, step.num_drafted)
        for below in step.below:
            if below.pick.limit.shape == "tree":
                self._inner.observe_first(below.first_accepted)
            else:
                self._inner.observe(below.num_accepted, below.num_drafted)
