"""Plain decoding: no draft, one row and one token a step."""

from __future__ import annotations

from memory.plan import Shape
from runtime.decoding.draft import NOTHING, PLAIN_NAME, DraftLimit, Step
from runtime.scheduler.acceptance_stats import AcceptanceStats
from runtime.scheduler.forecast import Forecast, Room
from runtime.scheduler.latency import LatencyEstimates


class Plain:
    """See ``DecodingMethod``."""

    def __init__(self) -> None:
        self.name = PLAIN_NAME
        self.shape: Shape = "chain"
        self.drafter: str | None = None
        self.levels: tuple[str, ...] = ()
        self.acceptances: tuple[AcceptanceStats, ...] = ()

    def limits(self, room: Room) -> tuple[DraftLimit, ...]:
        """See ``DecodingMethod``."""
        return (NOTHING,)

    def forecast(self, limit: DraftLimit, latency: LatencyEstimates) -> Forecast:
        """See ``DecodingMethod``."""
        return Forecast(self.name, None, limit, 1.0, latency.plain())

    def observe(self, step: Step) -> None:
        """See ``DecodingMethod``."""
