"""Trees of a drafter model, grown level by level: one forward of it for every level."""

from __future__ import annotations

from collections.abc import Iterator

from memory.expected import tree_curve
from memory.plan import Shape
from memory.step_models import tree_step
from runtime.decoding.draft import DraftLimit, Step
from runtime.scheduler.acceptance_stats import Acceptance, Gain
from runtime.scheduler.forecast import Forecast, Room
from runtime.scheduler.latency import Speeds

_DEPTHS = (2, 3, 4, 5)
# Trees up to this size are weighed with one curve.
_MOST_NODES = 16


class Trees:
    """Of the level called ``drafter``; a chain by it is accepted as ``acceptance`` tells."""

    def __init__(self, drafter: str, acceptance: Acceptance) -> None:
        self.name = f"{drafter}-tree"
        self.shape: Shape = "tree"
        self.drafter: str | None = drafter
        self.levels: tuple[str, ...] = (drafter,)
        self.acceptances: tuple[Acceptance, ...] = (acceptance,)
        self._level, self._acceptance = drafter, acceptance
        self._gain = Gain()
        self._curve: tuple[tuple[float, ...], list[float]] = ((), [])

    def limits(self, room: Room) -> Iterator[DraftLimit]:
        """See ``Family``: every other number of nodes that is more than a chain's, for several depths."""
        if room.trees:
            for depth in _DEPTHS:
                for nodes in range(depth + 1, room.nodes + 1, 2):
                    yield DraftLimit(nodes, depth, "tree")

    def forecast(self, limit: DraftLimit, speeds: Speeds) -> Forecast:
        """See ``Family``."""
        nodes, depth = limit.nodes, limit.depth
        tokens = 1 + self._accepted(depth, nodes) * self._gain.value
        estimate = tree_step(speeds, self._level, depth, nodes, tokens)
        return speeds.forecast(self.name, self.drafter, limit, estimate)

    def observe(self, step: Step) -> None:
        """See ``Family``."""
        if step.depth:
            self._gain.observe(step.num_accepted, self._accepted(step.pick.limit.depth, step.pick.limit.nodes))
            # Behind the first token a tree is deep only where the drafter is sure: that tells nothing of chains.
            self._acceptance.observe_first(step.first_accepted)

    def _accepted(self, depth: int, nodes: int) -> float:
        """Nodes that would be accepted if siblings were independent."""
        chances = tuple(self._acceptance.chances(depth))
        if self._curve[0] != chances or len(self._curve[1]) <= nodes:
            self._curve = chances, tree_curve(chances, max(nodes, _MOST_NODES))
        return self._curve[1][nodes] - 1
