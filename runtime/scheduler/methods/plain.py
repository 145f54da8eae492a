"""No draft at all."""

from __future__ import annotations

from memory.plan import Shape
from runtime.decoding.draft import NOTHING, PLAIN_NAME, DraftLimit, Step
from runtime.scheduler.acceptance_stats import Acceptance
from runtime.scheduler.forecast import Forecast, Room
from runtime.scheduler.latency import Speeds


class Plain:
    """A row and a token a step."""

    def __init__(self) -> None:
        self.name = PLAIN_NAME
        self.shape: Shape = "chain"
        self.drafter: str | None = None
        self.levels: tuple[str, ...] = ()
        self.acceptances: tuple[Acceptance, ...] = ()

    def limits(self, room: Room) -> tuple[DraftLimit, ...]:
        """See ``Family``."""
        return (NOTHING,)

    def forecast(self, limit: DraftLimit, speeds: Speeds) -> Forecast:
        """See ``Family``."""
        return Forecast(self.name, None, limit, 1.0, speeds.plain())

    def observe(self, step: Step) -> None:
        """See ``Family``."""
