"""Latency estimates: costs as calibrated on this device, corrected by every measured step.

A calibration is a snapshot. Later the machine may slow down, another process may take a core, or a drafter may become
slow. So predictions are corrected: for each decoding method by the running ratio of measured to predicted seconds, for
all that a step takes beside the target's forward, and for row counts of the target by ``row_slope``.

Both are relative to the slowdown of the machine as a whole, which changes no choice and is therefore left out of
predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping

from memory.costs import MeasuredCosts
from memory.plan import Shape
from memory.step_models import StepEstimate
from runtime.decoding.draft import DraftLimit, Step
from runtime.scheduler.acceptance_stats import RunningRatio
from runtime.scheduler.forecast import NEARLY, Forecast
from runtime.scheduler.row_slope import RowSlope

# Contexts of one bucket share a prediction: costs grow slowly with the text.
_BUCKET = 128
# The largest factor by which an observation may differ. What a row count takes beside the slope changes little, and
# must not look dear because it was held up twice.
_MOST_CHANGE, _MOST_CHANGE_OF_ROWS = 4.0, 1.25
# The target's forward says how slow the machine is if all other work in its time is below this share.
_MOST_BESIDE = 0.1
# Rows that a drafter reads anyway after a rejection or a bonus token.
FEW_ROWS = 4


class LatencyEstimates:
    """Predicts seconds. ``target`` names the level that verifies; ``padded`` gives the rows that a forward really runs,
    ``parallel`` holds the levels that draft in parallel.

    It is the planner's ``StepCosts`` for the scheduler.
    """

    def __init__(
        self, costs: MeasuredCosts, target: str, padded: Callable[[int], int], parallel: Container[str] = ()
    ) -> None:
        self.costs = costs
        self._parallel = parallel
        # Changes with the predictions.
        self.version = 0
        self._target, self._padded = target, padded
        self._bucket = 0
        self._forwards: dict[tuple[str, int], float] = {}
        self._targets: dict[int, float] = {}
        self._slowdown = RunningRatio(_MOST_CHANGE)
        self._slope = RowSlope()
        self._told_slope = 1.0
        self._latest_rows = 0
        self._rows: dict[int, RunningRatio] = {}
        self._methods: dict[str, RunningRatio] = {}

    @property
    def step_seconds(self) -> float:
        """Our own work in every step."""
        return self.costs.step_seconds

    @property
    def node_seconds(self) -> Mapping[Shape, float]:
        """Our own work for a node of a draft."""
        return self.costs.node_seconds

    @property
    def slowdown(self) -> float:
        """How many times longer everything takes at the moment than is predicted."""
        return self._slowdown.value

    def at(self, context: int) -> None:
        """From now on predictions are for a text of ``context`` tokens."""
        bucket = context // _BUCKET
        if bucket != self._bucket:
            self._bucket = bucket
            self._forwards.clear()
            self._change()

    def target(self, rows: int) -> float:
        """Seconds of a forward of the target with ``rows`` rows."""
        seconds = self._targets.get(rows)
        if seconds is None:
            seconds = self._sloped(self._padded(rows)) * self._row_ratio(self._padded(rows)).value
            self._targets[rows] = seconds
        return seconds

    def forward(self, level: str, rows: int) -> float:
        """Seconds of a forward of a level as calibrated, uncorrected; infinite for a level that was not."""
        seconds = self._forwards.get((level, rows))
        if seconds is None:
            costs = self.costs.levels.get(level)
            middle = self._bucket * _BUCKET + _BUCKET // 2
            seconds = costs.seconds(rows, middle) if costs is not None else float("inf")
            self._forwards[(level, rows)] = seconds
        return seconds

    def drafts_in_parallel(self, level: str) -> bool:
        """See ``StepCosts``."""
        return level in self._parallel

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
        ratio = self._methods.get(method)
        return 1.0 if ratio is None else ratio.value

    def update(self, forecast: Forecast, step: Step) -> None:
        """Corrects the estimates with a measured step that was taken on ``forecast``."""
        # Work for the nodes of trees is in the target's time. Beside a small model it would look like a slow machine.
        shape = forecast.limit.shape
        nodes = step.num_drafted * self.node_seconds[shape] if shape == "tree" else 0.0
        slowdown = self.slowdown
        if nodes <= _MOST_BESIDE * step.target_seconds:
            slowdown = self._update_target(self._padded(1 + step.num_drafted), step.target_seconds)
        beside = self._beside(forecast, step.num_drafted)
        if forecast.drafter is not None and beside > 0 and step.rows_read <= FEW_ROWS:
            ratio = self._methods.setdefault(forecast.method, RunningRatio(_MOST_CHANGE))
            self._correct(ratio, (step.seconds - step.target_seconds) / (beside * slowdown))

    def _beside(self, forecast: Forecast, drafted: int) -> float:
        scale = drafted / forecast.drafted if forecast.drafted else 1.0
        return forecast.draft_seconds * scale + self.step_seconds

    def _extra(self, rows: int) -> float:
        """How much longer a forward of the target was calibrated to take than one of a single row."""
        one = self.forward(self._target, 1)
        return self.forward(self._target, rows) / one - 1 if 0 < one < float("inf") else 0.0

    def _update_target(self, rows: int, seconds: float) -> float:
        """The slowdown during a forward of ``rows`` rows that took ``seconds``."""
        one = self.forward(self._target, 1)
        if not 0 < one < float("inf") or seconds <= 0:
            return self.slowdown
        self._slope.observe(self._extra(rows), seconds)
        if not NEARLY < (1 + self._slope.value) / (1 + self._told_slope) < 1 / NEARLY:
            self._told_slope = self._slope.value
            self._change()
        ratio = self._row_ratio(rows)
        if self._latest_rows not in (0, rows):
            self._correct(ratio, seconds / (self._sloped(rows) * self.slowdown))
        self._latest_rows = rows
        slowdown = seconds / (self._sloped(rows) * ratio.value)
        self._slowdown.observe(slowdown)
        return slowdown

    def _sloped(self, rows: int) -> float:
        return self.forward(self._target, 1) * self._slope.factor(self._extra(rows))

    def _row_ratio(self, rows: int) -> RunningRatio:
        return self._rows.setdefault(rows, RunningRatio(_MOST_CHANGE_OF_ROWS))

    def _correct(self, ratio: RunningRatio, observed: float) -> None:
        ratio.observe(observed)
        if not NEARLY < ratio.value / ratio.told < 1 / NEARLY:
            ratio.told = ratio.value
            self._change()

    def _change(self) -> None:
        self._targets.clear()
        self.version += 1
