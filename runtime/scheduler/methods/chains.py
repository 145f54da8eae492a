"""Chains of one draft model: one forward of it for every token."""

from __future__ import annotations

from memory.step_models import chain_step
from runtime.decoding.draft import DraftLimit, Step
from runtime.drafters.confidence import ConfidenceCalibration
from runtime.scheduler.acceptance_stats import AcceptanceStats
from runtime.scheduler.forecast import Forecast
from runtime.scheduler.latency import LatencyEstimates
from runtime.scheduler.methods import DecodingMethod


class Chains(DecodingMethod):
    """Forecasts chain drafts of the level ``drafter`` from its ``acceptance`` by depth.

    ``calibration`` learns which chance of acceptance the drafter's own probabilities mean.
    """

    def __init__(self, drafter: str, acceptance: AcceptanceStats, calibration: ConfidenceCalibration) -> None:
        super().__init__(drafter, [drafter], [acceptance])
        self._level, self._acceptance, self._calibration = drafter, acceptance, calibration

    def forecast(self, limit: DraftLimit, latency: LatencyEstimates) -> Forecast:
        estimate = chain_step(latency, self._level, self._acceptance.chances(limit.depth))
        drafting = estimate.drafting * latency.correction(self.name)
        node_seconds = (drafting + estimate.verifying - latency.target(1)) / limit.depth
        return latency.forecast(self.name, self.drafter, limit, estimate, node_seconds)

    def observe(self, step: Step) -> None:
        self._acceptance.observe(step.num_accepted, step.num_drafted)
        for depth, raw in enumerate(step.chances):
            self._calibration.observe(raw, depth < step.num_accepted)
