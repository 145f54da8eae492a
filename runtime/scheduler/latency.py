"""Latency estimates: costs as calibrated on this device, corrected by every measured step.

A calibration is a snapshot. Later the machine may slow down, another process may take a core, or a drafter may become
slow. So predictions are corrected: for each decoding method by the running ratio of measured to predicted seconds, for
all that a step takes beside the target's forward, and for row counts of the target by ``row_slope``.

Both are relative to the slowdown of the machine as a whole, which changes no choice and is therefore left out of
predictions.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from statistics import median

from memory.costs import MeasuredCosts
from memory.step_models import StepEstimate
from runtime.decoding.draft import DraftLimit, Step
from runtime.scheduler.forecast import NEARLY, Forecast
from runtime.scheduler.row_slope import RowSlope

# Weight of the latest observation in a ratio.
_LATEST = 0.3
# Rows that a drafter reads anyway after a rejection or a bonus token.
FEW_ROWS = 4
# The target's forward says how slow the machine is if all other work in its time is below this share.
_MOST_BESIDE = 0.1


class LatencyEstimates:
    """Predicts seconds. ``target`` names the level that verifies; ``padded`` gives the rows that a forward really runs.

    It is the planner's ``StepCosts`` for the scheduler.
    """

    def __init__(self, costs: MeasuredCosts, target: str, padded: Callable[[int], int]) -> None:
        self.costs, self._target, self._padded = costs, target, padded
        # Our own work in every step, and for a node of a draft.
        self.step_seconds, self.node_seconds = costs.step_seconds, costs.node_seconds
        self._context = 0
        self._forwards: dict[tuple[str, int], float] = {}
        self._slowdown, self._slope = RunningRatio(), RowSlope()
        self._methods = defaultdict[str, RunningRatio](RunningRatio)

    @property
    def slowdown(self) -> float:
        """How many times longer everything takes at the moment than is predicted."""
        return self._slowdown.value

    @property
    def version(self) -> object:
        """Equal as long as predictions are about the same."""
        ratios = (1 + self._slope.value, *(ratio.value for ratio in self._methods.values()))
        return self._context, [round(math.log(ratio) / (1 - NEARLY)) for ratio in ratios]

    def at(self, context: int) -> None:
        """From now on predictions are for a text of ``context`` tokens, or one that takes about as long."""
        if not NEARLY < self.forward(self._target, 1) / self._calibrated(self._target, 1, context) < 1 / NEARLY:
            self._context = context
            self._forwards.clear()

    def target(self, rows: int) -> float:
        """Seconds of a forward of the target with ``rows`` rows, which is no dearer than a forward for each."""
        return self.forward(self._target, 1) * min(self._slope.factor(self._extra(rows)), self._padded(rows))

    def forward(self, level: str, rows: int) -> float:
        """Seconds of a forward of a level as calibrated, uncorrected; infinite for a level that was not."""
        seconds = self._forwards.get((level, rows))
        if seconds is None:
            seconds = self._forwards[level, rows] = self._calibrated(level, rows, self._context)
        return seconds

    def _calibrated(self, level: str, rows: int, context: int) -> float:
        costs = self.costs.levels.get(level)
        return costs.seconds(rows, context) if costs is not None else float("inf")

    def plain(self) -> float:
        """Seconds of a step without a draft."""
        return self.target(1) + self.step_seconds

    def forecast(
        self, method: str, drafter: str | None, limit: DraftLimit, estimate: StepEstimate, node_seconds: float = 0.0
    ) -> Forecast:
        """The shared model's ``estimate`` of a step of ``method``, corrected by what its steps took."""
        seconds = estimate.verifying + (estimate.drafting + self.step_seconds) * self.correction(method)
        return Forecast(
            method, drafter, limit, estimate.tokens, seconds, estimate.drafting, estimate.drafted, node_seconds
        )

    def expected(self, forecast: Forecast, drafted: int) -> float:
        """Seconds of a step that was taken on ``forecast``, given the number of tokens ``drafted`` in it."""
        return self.target(1 + drafted) + self._beside(forecast, drafted) * self.correction(forecast.method)

    def correction(self, method: str) -> float:
        """Measured over calibrated seconds of all that a step of ``method`` takes beside the target's forward."""
        return self._methods[method].value

    def update(self, forecast: Forecast, step: Step) -> None:
        """Corrects the estimates with a measured step that was taken on ``forecast``."""
        # Work for the nodes of trees is in the target's time. Beside a small model it would look like a slow machine.
        slowdown, shape = self.slowdown, forecast.limit.shape
        nodes = step.num_drafted * self.node_seconds[shape] if shape == "tree" else 0.0
        if nodes <= _MOST_BESIDE * step.target_seconds > 0:
            self._slope.observe(self._extra(1 + step.num_drafted), step.target_seconds)
            slowdown = step.target_seconds / self.target(1 + step.num_drafted)
            self._slowdown.observe(slowdown)
        beside = self._beside(forecast, step.num_drafted)
        if forecast.drafter is not None and beside > 0 and step.rows_read <= FEW_ROWS:
            self._methods[forecast.method].observe((step.seconds - step.target_seconds) / (beside * slowdown))

    def _beside(self, forecast: Forecast, drafted: int) -> float:
        scale = drafted / forecast.drafted if forecast.drafted else 1.0
        return forecast.draft_seconds * scale + self.step_seconds

    def _extra(self, rows: int) -> float:
        """How much longer a forward of the target was calibrated to take than one of a single row."""
        return self.forward(self._target, self._padded(rows)) / self.forward(self._target, 1) - 1


class RunningRatio:
    """The running ratio of what was observed to what was predicted, robust against single hiccups.

    Every observation is the median of the latest three, so a lasting change shows with the second. None doubles
    the ratio: a method that looks too slow is not used, and would never be seen to be fast.
    """

    def __init__(self) -> None:
        self.value = 1.0
        self._before = (1.0, 1.0)

    def observe(self, ratio: float) -> None:
        """One observation."""
        usual = median((*self._before, ratio))
        self.value += _LATEST * (min(usual, self.value / _LATEST) - self.value)
        self._before = (self._before[1], ratio)
