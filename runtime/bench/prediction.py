"""What the cost model forecasts for measured steps, to show how accurate it is.

Answers are replayed from their records. Before every step the cost model makes a forecast from the acceptance and
latencies that it has learned so far; then it learns from the step, as it does while decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

from memory.costs import MeasuredCosts
from runtime.decoding.draft import Pick, Step
from runtime.scheduler.latency import LatencyEstimates
from runtime.scheduler.methods import DecodingMethod


class Replay:
    """The cost model as it learns from one contender, answer after answer.

    ``methods`` have learned nothing yet. ``costs`` are this device's, for a target called ``target``, whose forwards of
    n rows run ``padded(n)`` of them; ``parallel`` holds the levels that draft in parallel.
    """

    def __init__(
        self,
        methods: Sequence[DecodingMethod],
        costs: MeasuredCosts,
        target: str,
        padded: Callable[[int], int],
        parallel: Container[str] = (),
    ) -> None:
        self._methods, self._latency = methods, LatencyEstimates(costs, target, padded, parallel)

    def predict(self, steps: Sequence[Step], context: int) -> float | None:
        """The forecast for ``steps`` after a text of ``context`` tokens, in tokens/s; None if no method made a step."""
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
        """The method of the picked drafter that makes drafts of the picked shape."""
        owned = [method for method in self._methods if method.drafter == pick.drafter]
        return next((method for method in owned if method.shape == pick.limit.shape), None)
