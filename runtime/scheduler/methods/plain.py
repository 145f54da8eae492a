"""Plain decoding: no draft, one row and one token a step."""

from __future__ import annotations

from runtime.decoding.draft import NOTHING, DraftLimit, Step
from runtime.scheduler.forecast import Forecast, Room
from runtime.scheduler.latency import LatencyEstimates
from runtime.scheduler.methods import DecodingMethod


class Plain(DecodingMethod):
    """A single forecast, and nothing to learn."""

    def limits(self, room: Room) -> tuple[DraftLimit, ...]:
        return (NOTHING,)

    def forecast(self, limit: DraftLimit, latency: LatencyEstimates) -> Forecast:
        return Forecast(self.name, None, limit, 1.0, latency.plain())

    def observe(self, step: Step) -> None:
        pass
