"""Chains drafted while the target verifies the one before, on compute units apart (``runtime.drafters.overlapped``)."""

from __future__ import annotations

from collections.abc import Iterator

from memory.overlap import StepSeconds, overlap_step
from memory.plan import Shape
from runtime.decoding.draft import DraftLimit, Step, chain_limit
from runtime.scheduler.acceptance_stats import Acceptance
from runtime.scheduler.forecast import Forecast, Room
from runtime.scheduler.latency import Speeds


class Overlaps:
    """Of the drafter called ``drafter``, which runs the level ``below`` ahead, accepted as ``acceptance`` tells."""

    def __init__(self, drafter: str, below: str, acceptance: Acceptance) -> None:
        self.name = f"{drafter}-chain"
        self.shape: Shape = "chain"
        self.drafter: str | None = drafter
        self.levels: tuple[str, ...] = (below,)
        self.acceptances: tuple[Acceptance, ...] = (acceptance,)
        self._below, self._acceptance = below, acceptance

    def limits(self, room: Room) -> Iterator[DraftLimit]:
        """See ``Family``: every length."""
        return map(chain_limit, range(1, room.nodes + 1))

    def forecast(self, limit: DraftLimit, speeds: Speeds) -> Forecast:
        """See ``Family``."""
        length = limit.depth
        drafting = (length + 1) * (speeds.forward(self._below, 1) + speeds.costs.node_seconds["chain"])
        tokens, seconds = overlap_step(
            self._acceptance.chances(length + 2), StepSeconds(speeds.target(1), speeds.target(1 + length), drafting)
        )
        return Forecast(self.name, self.drafter, limit, tokens, seconds + speeds.around("chain", length))

    def observe(self, step: Step) -> None:
        """See ``Family``."""
        if step.num_drafted:
            self._acceptance.observe(step.num_accepted, step.num_drafted)
