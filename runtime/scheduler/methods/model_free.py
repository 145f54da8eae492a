"""Chains of a drafter that needs no model, such as the suffix drafter: asking costs little, a draft comes at times."""

from __future__ import annotations

from memory.plan import Shape
from memory.step_models import StepEstimate
from runtime.decoding.draft import DraftLimit, Step, chain_limit
from runtime.scheduler.acceptance_stats import AcceptanceStats, RunningMean
from runtime.scheduler.forecast import Forecast, Room
from runtime.scheduler.latency import LatencyEstimates

# Before the first step: one question in ten brings a draft, of three tokens, of which half is accepted. That counts as
# ten questions, and as two drafts.
_HITS, _DRAFTED, _ACCEPTED = 0.1, 3.0, 1.5
_PRIOR_DRAFTS, _PRIOR_QUESTIONS = 2.0, 10.0


class ModelFree:
    """Forecasts the chains of ``drafter``, at most ``longest`` tokens long, from running means over its steps."""

    def __init__(self, drafter: str, longest: int) -> None:
        self.name = f"{drafter}-chain"
        self.shape: Shape = "chain"
        self.drafter: str | None = drafter
        self.levels: tuple[str, ...] = ()
        self.acceptances: tuple[AcceptanceStats, ...] = ()
        self._longest = longest
        self._hits = RunningMean(_HITS, _PRIOR_QUESTIONS)
        self._drafted, self._accepted = RunningMean(_DRAFTED, _PRIOR_DRAFTS), RunningMean(_ACCEPTED, _PRIOR_DRAFTS)

    def limits(self, room: Room) -> tuple[DraftLimit, ...]:
        """See ``DecodingMethod``: one, since the drafter itself knows where to end."""
        longest = min(room.nodes, self._longest)
        return (chain_limit(longest),) if longest else ()

    def forecast(self, limit: DraftLimit, latency: LatencyEstimates) -> Forecast:
        """See ``DecodingMethod``: an average step, with or without a draft."""
        drafted, hits = min(self._drafted.value, limit.nodes), self._hits.value
        verifying = (1 - hits) * latency.target(1) + hits * latency.target(1 + max(1, round(drafted)))
        asking = latency.costs.suffix_seconds + hits * drafted * latency.node_seconds["chain"]
        tokens = 1 + hits * min(self._accepted.value, limit.nodes)
        return latency.forecast(self.name, self.drafter, limit, StepEstimate(tokens, verifying, asking, 0.0))

    def observe(self, step: Step) -> None:
        """See ``DecodingMethod``."""
        self._hits.observe(step.num_drafted > 0)
        if step.num_drafted:
            self._drafted.observe(step.num_drafted)
            self._accepted.observe(step.num_accepted)
