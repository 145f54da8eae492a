"""Chains drafted while the target verifies the one before, on other cores (``runtime.drafters.overlapped``)."""

from __future__ import annotations

from collections.abc import Iterator

from memory.overlap import StepSeconds, overlap_step
from memory.plan import Shape
from memory.step_models import draft_seconds
from runtime.decoding.draft import DraftLimit, Step, chain_limit
from runtime.scheduler.acceptance_stats import AcceptanceStats
from runtime.scheduler.forecast import Forecast, Room
from runtime.scheduler.latency import LatencyEstimates


class Overlaps:
    """Forecasts the drafts of ``drafter``, which runs the level ``below`` ahead, from its ``acceptance`` by depth."""

    def __init__(self, drafter: str, below: str, acceptance: AcceptanceStats) -> None:
        self.name = f"{drafter}-chain"
        self.shape: Shape = "chain"
        self.drafter: str | None = drafter
        self.levels: tuple[str, ...] = (below,)
        self.acceptances: tuple[AcceptanceStats, ...] = (acceptance,)
        self._below, self._acceptance = below, acceptance

    def limits(self, room: Room) -> Iterator[DraftLimit]:
        """See ``DecodingMethod``: every length."""
        return map(chain_limit, range(1, room.nodes + 1))

    def forecast(self, limit: DraftLimit, latency: LatencyEstimates) -> Forecast:
        """See ``DecodingMethod``."""
        length = limit.depth
        drafting = draft_seconds(latency, self._below, "chain", length + 1, length + 1)
        times = StepSeconds(latency.target(1), latency.target(1 + length), drafting)
        tokens, seconds = overlap_step(self._acceptance.chances(length + 2), times)
        around = latency.step_seconds + length * latency.node_seconds["chain"]
        return Forecast(self.name, self.drafter, limit, tokens, seconds + around)

    def observe(self, step: Step) -> None:
        """See ``DecodingMethod``."""
        if step.num_drafted:
            self._acceptance.observe(step.num_accepted, step.num_drafted)
