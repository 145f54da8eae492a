"""Hierarchies: an intermediate model drafts chains for the target, sped up by a drafter below it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from memory.expected import tree_tokens
from memory.plan import Shape
from memory.step_models import brought_by_chain, brought_by_tree, hierarchy_step, judged_step_seconds
from runtime.decoding.draft import DraftLimit, Step, chain_limit
from runtime.scheduler.acceptance_stats import AcceptanceStats, TreeGain
from runtime.scheduler.forecast import Forecast, Room
from runtime.scheduler.latency import LatencyEstimates

# Drafts for the target, and for the intermediate: few enough to weigh them all.
_LENGTHS = (2, 3, 4, 5, 6, 8, 10, 12)
_INNER = (
    *map(chain_limit, (1, 2, 3, 5)),
    DraftLimit(4, 2, "tree"),
    DraftLimit(8, 3, "tree"),
)
# What the drafter asks for where no limit says (``runtime.drafters.hierarchy``).
_USUAL_INNER = chain_limit(3)


class Hierarchies:
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
        self.name = f"{drafter}-chain"
        self.shape: Shape = "chain"
        self.drafter: str | None = drafter
        self.levels: tuple[str, ...] = (below, middle)
        self.acceptances: tuple[AcceptanceStats, ...] = (outer, inner)
        self._inner_gain = TreeGain()
        self._below, self._middle = below, middle
        self._outer, self._inner, self._inner_room = outer, inner, inner_room

    def limits(self, room: Room) -> Iterator[DraftLimit]:
        """See ``DecodingMethod``: every length for the target with every draft for the intermediate."""
        inner_room = self._inner_room()
        for inner in _INNER:
            if inner.nodes <= inner_room.nodes and (inner.shape == "chain" or inner_room.trees):
                for length in _LENGTHS:
                    if length <= room.nodes:
                        yield chain_limit(length, inner)

    def forecast(self, limit: DraftLimit, latency: LatencyEstimates) -> Forecast:
        """See ``DecodingMethod``."""
        inner = limit.inner or _USUAL_INNER
        judged = judged_step_seconds(latency, self._below, self._middle, inner.shape, inner.nodes, inner.depth)
        chances = self._outer.chances(limit.depth)
        estimate = hierarchy_step(latency, self._middle, chances, self._brought(inner), judged)
        return latency.forecast(self.name, self.drafter, limit, estimate)

    def observe(self, step: Step) -> None:
        """See ``DecodingMethod``."""
        self._outer.observe(step.num_accepted, step.num_drafted)
        for below in step.below:
            limit = below.pick.limit
            if limit.shape == "tree":
                expected = tree_tokens(self._inner.chances(limit.depth), limit.nodes) - 1
                self._inner_gain.observe(below.num_accepted, expected)
                self._inner.observe_first(below.first_accepted)
            else:
                self._inner.observe(below.num_accepted, below.num_drafted)

    def _brought(self, inner: DraftLimit) -> tuple[float, ...]:
        """The chance that a step of the intermediate brings 1, 2, ... tokens."""
        chances = self._inner.chances(inner.depth)
        if inner.shape == "chain":
            return brought_by_chain(chances)
        return brought_by_tree(chances, inner.nodes, self._inner_gain.value)
