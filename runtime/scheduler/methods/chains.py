"""Chains of a drafter model: one forward of it for every token."""

from __future__ import annotations

from collections.abc import Iterator

from memory.plan import Shape
from memory.step_models import chain_step
from runtime.decoding.draft import DraftLimit, Step, chain_limit
from runtime.drafters.confidence import Calibration
from runtime.scheduler.acceptance_stats import Acceptance
from runtime.scheduler.forecast import Forecast, Room
from runtime.scheduler.latency import Speeds


class Chains:
    """Of the level called ``drafter``, accepted as ``acceptance`` tells; ``calibration`` learns how sure it may be."""

    def __init__(self, drafter: str, acceptance: Acceptance, calibration: Calibration) -> None:
        self.name = f"{drafter}-chain"
        self.shape: Shape = "chain"
        self.drafter: str | None = drafter
        self.levels: tuple[str, ...] = (drafter,)
        self.acceptances: tuple[Acceptance, ...] = (acceptance,)
        self._level, self._acceptance, self._calibration = drafter, acceptance, calibration

    def limits(self, room: Room) -> Iterator[DraftLimit]:
        """See ``Family``: every length."""
        return map(chain_limit, range(1, room.nodes + 1))

    def forecast(self, limit: DraftLimit, speeds: Speeds) -> Forecast:
        """See ``Family``."""
        correction, length = speeds.correction(self.name), limit.depth
        estimate = chain_step(speeds, self._level, self._acceptance.chances(length))
        node_seconds = (estimate.drafting * correction + estimate.verifying - speeds.target(1)) / length
        return speeds.forecast(self.name, self.drafter, limit, estimate, node_seconds)

    def observe(self, step: Step) -> None:
        """See ``Family``."""
        self._acceptance.observe(step.num_accepted, step.num_drafted)
        for depth, raw in enumerate(step.chances):
            self._calibration.observe(raw, depth < step.num_accepted)
