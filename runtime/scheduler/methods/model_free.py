"""Chains of a drafter that needs no model, such as the suffix drafter: it costs little, and drafts only at times."""

from __future__ import annotations

from memory.plan import Shape
from runtime.decoding.draft import DraftLimit, Step, chain_limit
from runtime.scheduler.acceptance_stats import Acceptance, Mean
from runtime.scheduler.forecast import Forecast, Room
from runtime.scheduler.latency import Speeds

# Before the first step: one in ten has a draft, of which half stands; it counts as so many steps with a draft, or as so
# many questions. Heuristics.
_HITS, _DRAFTED, _ACCEPTED = 0.1, 3.0, 1.5
_PRIOR_DRAFTS, _PRIOR_QUESTIONS = 2.0, 10.0


class ModelFree:
    """Of the drafter called ``drafter``, chains of at most ``longest`` tokens.

    Running means over steps tell how often it drafts, and what comes of that.
    """

    def __init__(self, drafter: str, longest: int) -> None:
        self.name = f"{drafter}-chain"
        self.shape: Shape = "chain"
        self.levels: tuple[str, ...] = ()
        self.acceptances: tuple[Acceptance, ...] = ()
        self.drafter: str | None = drafter
        self._longest = longest
        self._hits = Mean(_HITS, _PRIOR_QUESTIONS)
        self._drafted, self._accepted = Mean(_DRAFTED, _PRIOR_DRAFTS), Mean(_ACCEPTED, _PRIOR_DRAFTS)

    def limits(self, room: Room) -> tuple[DraftLimit, ...]:
        """See ``Family``: one, since the drafter itself knows where to end."""
        longest = min(room.nodes, self._longest)
        return (chain_limit(longest),) if longest else ()

    def forecast(self, limit: DraftLimit, speeds: Speeds) -> Forecast:
        """See ``Family``: a step on average, with a draft or without."""
        drafted, hits = min(self._drafted.value, limit.nodes), self._hits.value
        verifying = (1 - hits) * speeds.target(1) + hits * speeds.target(1 + max(1, round(drafted)))
        asking = speeds.costs.suffix_seconds + hits * drafted * speeds.costs.node_seconds["chain"]
        seconds = verifying + (asking + speeds.costs.step_seconds) * speeds.correction(self.name)
        tokens = 1 + hits * min(self._accepted.value, limit.nodes)
        return Forecast(self.name, self.drafter, limit, tokens, seconds, asking)

    def observe(self, step: Step) -> None:
        """See ``Family``."""
        self._hits.observe(step.num_drafted > 0)
        if step.num_drafted:
            self._drafted.observe(step.num_drafted)
            self._accepted.observe(step.num_accepted)
