"""Chains of one draft model: one forward of it for every token."""

from __future__ import annotations

from collections.abc import Iterator

from memory.plan import Shape
from memory.step_models import chain_step
from runtime.decoding.draft import DraftLimit, Step, chain_limit
from runtime.drafters.confidence import ConfidenceCalibration
from runtime.scheduler.acceptance_stats import AcceptanceStats
from runtime.scheduler.forecast import Forecast, Room
from runtime.scheduler.latency import LatencyEstimates


class Chains:
    """Forecasts chain drafts of the level ``drafter`` from its ``acceptance`` by depth.

    ``calibration`` learns which chance of acceptance the drafter's own probabilities mean.
    """

    def __init__(self, drafter: str, acceptance: AcceptanceStats, calibration: ConfidenceCalibration) -> None:
        self.name = f"{drafter}-chain"
        self.shape: Shape = "chain"
        self.drafter: str | None = drafter
        self.levels: tuple[str, ...] = (drafter,)
        self.acceptances: tuple[AcceptanceStats, ...] = (acceptance,)
        self._level, self._acceptance, self._calibration = drafter, acceptance, calibration

    def limits(self, room: Room) -> Iterator[DraftLimit]:
        """See ``DecodingMethod``: every length."""
        return map(chain_limit, range(1, room.nodes + 1))

    def forecast(self, limit: DraftLimit, latency: LatencyEstimates) -> Forecast:
        """See ``DecodingMethod``."""
        length = limit.depth
        estimate = chain_step(latency, self._level, self._acceptance.chances(length))
        drafting = estimate.drafting * latency.correction(self.name)
        node_seconds = (drafting + estimate.verifying - latency.target(1)) / length
        return latency.forecast(self.name, self.drafter, limit, estimate, node_seconds)

    def observe(self, step: Step) -> None:
        """See ``DecodingMethod``."""
        self._acceptance.observe(step.num_accepted, step.num_drafted)
        for depth, raw in enumerate(step.chances):
            self._calibration.observe(raw, depth < step.num_accepted)
