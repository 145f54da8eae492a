"""What the cost model forecast for steps before they were taken, to show how good it is.

Answers are replayed from their records. For every step the cost model forecasts from the acceptance and latencies
learned so far; then it learns from the step, as it does while decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memory.costs import MeasuredCosts
from runtime.decoding.draft import Pick, Step
from runtime.scheduler.latency import LatencyEstimates
from runtime.scheduler.methods import DecodingMethod


class Replay:
    """The cost model as it learns from one contender, answer after answer.

    ``methods`` have learned nothing yet; ``costs`` are this device's, of ``target`` with its rows ``padded``.
    """

    def __init__(
        self, methods: Sequence[DecodingMethod], costs: MeasuredCosts, target: str, padded: Callable[[int], int]
    ) -> None:
        self._methods, self._latency = methods, LatencyEstimates(costs, target, padded)

    def predict(self, steps: Sequence[Step], context: int) -> float | None:
        """The forecast in tokens/s for ``steps`` after a text of ``context`` tokens; None if a step has no method."""
        tokens = seconds = 0.0
        for step in steps:
            method = self._owner(step.pick)
            if method is None:
                return None
            self._latency.at(context)
            forecast = method.forecast(step.pick.limit, self._latency)
            tokens, seconds = tokens + forecast.tokens, seconds + forecast.seconds * self._latency.slowdown
            self._latency.update(forecast, step)
            if forecast.pick.drafter is not None:
                method.observe(step)
            context += len(step.tokens)
        return tokens / seconds if seconds else None

    def _owner(self, pick: Pick) -> DecodingMethod | None:
        """The method that made ``pick``: if a drafter has several kinds of drafts, the one of that shape."""
        owned = [method for method in self._methods if method.drafter == pick.drafter]
        return next((method for method in owned if method.shape == pick.limit.shape), None)
