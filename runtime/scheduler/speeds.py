"""What forwards cost right now: as measured on this device, corrected by what every step shows.

A calibration is a moment's measurement. Since then the machine may have slowed down, another process may have taken a
core, a drafter may have become slow. So predictions are multiplied by running ratios of what was seen to what had been
predicted: one for the target as a whole, one for each number of rows of it, one for every drafter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from memory.costs import MeasuredCosts
from memory.plan import Shape
from runtime.decode import Step
from runtime.scheduler.acceptance import Ratio

if TYPE_CHECKING:
    from runtime.scheduler.ways import Forecast

# Contexts of one bucket share a prediction: costs grow slowly with the text.
_BUCKET = 128
# The target as a whole is seen at every step, a number of rows only when it is picked.
_DRIFT_SHARE, _WIDTH_SHARE = 0.2, 0.05
# Rows that a drafter has to read anyway after a rejection or a bonus.
FEW_ROWS = 4
# So much of a target's time may be other than its forward for that to be measured by it.
_MOST_BESIDE = 0.1
# Beyond this, an observation says that the system did something else.
_MOST = 50.0


class Speeds:
    """Predicts seconds. ``target`` names the level that verifies; ``padded`` tells the rows it really runs."""

    def __init__(self, costs: MeasuredCosts, target: str, padded: Callable[[int], int]) -> None:
        self.costs = costs
        self._target, self._padded = target, padded
        self._bucket = 0
        self._known: dict[tuple[str, int], float] = {}
        self._told: dict[int, float] = {}
        self._drift = Ratio(_DRIFT_SHARE)
        self._widths: dict[int, Ratio] = {}
        self._drafters: dict[str, Ratio] = {}

    def at(self, context: int) -> None:
        """Predictions are for so many tokens of text from now on."""
        bucket = context // _BUCKET
        if bucket != self._bucket:
            self._bucket = bucket
            self._known.clear()
            self._told.clear()

    def target(self, rows: int) -> float:
        """Seconds of a forward of the target with ``rows`` rows, as it goes at the moment."""
        seconds = self._told.get(rows)
        if seconds is None:
            padded = self._padded(rows)
            width = self._widths.get(padded)
            seconds = self.forward(self._target, padded) * self._drift.value * (width.value if width is not None else 1)
            self._told[rows] = seconds
        return seconds

    def forward(self, level: str, rows: int) -> float:
        """Seconds of a forward of a level as calibrated, uncorrected; of a level that was not, infinite."""
        seconds = self._known.get((level, rows))
        if seconds is None:
            costs = self.costs.levels.get(level)
            middle = self._bucket * _BUCKET + _BUCKET // 2
            seconds = costs.seconds(rows, middle) if costs is not None else float("inf")
            self._known[(level, rows)] = seconds
        return seconds

    def around(self, shape: Shape, nodes: float) -> float:
        """Seconds of our own work in a step with a draft of so many nodes."""
        return self.costs.step_seconds + nodes * self.costs.node_seconds[shape]

    def correction(self, family: str) -> float:
        """What drafting takes over what was calibrated."""
        ratio = self._drafters.get(family)
        return 1.0 if ratio is None else ratio.value

    def saw(self, forecast: Forecast, step: Step) -> None:
        """What a step took that was taken on ``forecast``."""
        # Masks and what else trees need is in the target's time. With a small model it would pass for a slow machine.
        shape = forecast.pick.limit.shape
        beside = step.num_drafted * self.costs.node_seconds[shape] if shape == "tree" else 0.0
        if beside <= _MOST_BESIDE * step.target_seconds:
            self._saw_target(1 + step.num_drafted, step.target_seconds)
        if forecast.draft_seconds and step.rows_read <= FEW_ROWS:
            scale = step.num_drafted / forecast.drafted if forecast.drafted else 1.0
            self._saw_draft(forecast.family, forecast.draft_seconds * scale, step.draft_seconds)

    def _saw_target(self, rows: int, seconds: float) -> None:
        rows = self._padded(rows)
        expected = self.forward(self._target, rows)
        if expected <= 0 or seconds <= 0:
            return
        self._told.clear()
        self._drift.observe(min(seconds / expected, _MOST))
        width = self._widths.setdefault(rows, Ratio(_WIDTH_SHARE))
        width.observe(min(seconds / (expected * self._drift.value), _MOST))

    def _saw_draft(self, family: str, expected: float, seconds: float) -> None:
        if expected > 0 and seconds > 0:
            self._drafters.setdefault(family, Ratio()).observe(min(seconds / expected, _MOST))
