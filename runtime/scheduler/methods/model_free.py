"""Chains of a drafter that needs no model, such as the suffix drafter: asking costs little, a draft comes at times."""

from __future__ import annotations

from memory.step_models import StepEstimate
from runtime.decoding.draft import DraftLimit, Step, chain_limit
from runtime.scheduler.acceptance_stats import UNKNOWN_CHANCE, RunningMean
from runtime.scheduler.forecast import Forecast, Room
from runtime.scheduler.latency import LatencyEstimates
from runtime.scheduler.methods import DecodingMethod

# Before the first step: one question in ten brings a draft, of three tokens.
_HITS, _DRAFTED = 0.1, 3.0


class ModelFree(DecodingMethod):
    """Forecasts the chains of ``drafter``, at most ``longest`` tokens long, from running means over its steps."""

    def __init__(self, drafter: str, longest: int) -> None:
        super().__init__(drafter)
        self._longest = longest
        self._hits, self._drafted, self._accepted = map(RunningMean, (_HITS, _DRAFTED, UNKNOWN_CHANCE))

    def limits(self, room: Room) -> tuple[DraftLimit, ...]:
        """One, since the drafter itself knows where to end."""
        longest = min(room.nodes, self._longest)
        return (chain_limit(longest),) if longest else ()

    def forecast(self, limit: DraftLimit, latency: LatencyEstimates) -> Forecast:
        """An average step, with or without a draft."""
        drafted, hits = min(self._drafted.value, limit.nodes), self._hits.value
        verifying = (1 - hits) * latency.target(1) + hits * latency.target(1 + max(1, round(drafted)))
        asking = latency.costs.suffix_seconds + hits * drafted * latency.node_seconds["chain"]
        tokens = 1 + hits * drafted * self._accepted.value
        return latency.forecast(self.name, self.drafter, limit, StepEstimate(tokens, verifying, asking, 0.0))

    def observe(self, step: Step) -> None:
        self._hits.observe(step.num_drafted > 0)
        if step.num_drafted:
            self._drafted.observe(step.num_drafted)
            self._accepted.observe(step.num_accepted, step.num_drafted)
