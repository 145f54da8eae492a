"""What the scheduler's cost model forecast for steps before they were taken: how good it is, to be shown.

Answers are replayed from their records, behind the clock's back: for every step the forecast that running acceptance
and running costs give at that moment, then the step itself, from which both learn, as they do while decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memory.costs import MeasuredCosts
from runtime.decoding.draft import Pick, Step
from runtime.scheduler.latency import Speeds
from runtime.scheduler.methods import Family


class Replay:
    """The cost model as it follows one contender from answer to answer.

    ``families`` have seen nothing yet; ``costs`` are this device's, of ``target`` with its rows ``padded``.
    """

    def __init__(
        self, families: Sequence[Family], costs: MeasuredCosts, target: str, padded: Callable[[int], int]
    ) -> None:
        self._families, self._speeds = families, Speeds(costs, target, padded)

    def predict(self, steps: Sequence[Step], context: int) -> float | None:
        """Tokens/s forecast for ``steps``, which follow a text of ``context`` tokens; None where there is no family
        for one of them."""
        tokens = seconds = 0.0
        for step in steps:
            family = self._owner(step.pick)
            if family is None:
                return None
            self._speeds.at(context)
            forecast = family.forecast(step.pick.limit, self._speeds)
            tokens, seconds = tokens + forecast.tokens, seconds + forecast.seconds * self._speeds.slowness
            self._speeds.saw(forecast, step)
            if forecast.pick.drafter is not None:
                family.observe(step)
            context += len(step.tokens)
        return tokens / seconds if seconds else None

    def _owner(self, pick: Pick) -> Family | None:
        """Whose ``pick`` it is: of a drafter with several kinds of drafts, the one of that shape."""
        owned = [family for family in self._families if family.drafter == pick.drafter]
        return next((family for family in owned if family.shape == pick.limit.shape), None)
