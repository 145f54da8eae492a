"""What forwards cost: as measured on this device, corrected by what every step shows.

A calibration is a moment's measurement. Since then the machine may have slowed down, another process may have taken a
core, a drafter may have become slow. So predictions are multiplied by running ratios of what was seen to what had been
predicted: one for each number of rows of the target, one for everything beside that of every family of drafts. Ratios
are held against how slow the machine as a whole is at the moment, of which all predictions are free: what slows down
everything changes no choice. A number of rows is compared with the one before it, so that nothing is learnt of rows
from a machine that slows down while they stay the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from memory.costs import MeasuredCosts
from memory.plan import Shape
from memory.step_models import StepEstimate
from runtime.decoding.draft import DraftLimit, Step
from runtime.scheduler.acceptance_stats import Ratio
from runtime.scheduler.forecast import NEARLY, Forecast

# Contexts of one bucket share a prediction: costs grow slowly with the text.
_BUCKET = 128
# How much of a ratio is its latest observation, and the factor by which that may be another: the machine and drafters
# change; what rows cost is compared with other rows, which is less exact, and changes less. A number of rows that is
# seen now and then must not be believed dear because it was held up twice.
_FRESH, _ROWS_FRESH = (0.3, 4.0), (0.1, 1.25)
# Rows that a drafter has to read anyway after a rejection or a bonus.
FEW_ROWS = 4
# So much of a target's time may be other than its forward for that to be measured by it.
_MOST_BESIDE = 0.1


class Speeds:
    """Predicts seconds. ``target`` names the level that verifies; ``padded`` tells the rows it really runs."""

    def __init__(self, costs: MeasuredCosts, target: str, padded: Callable[[int], int]) -> None:
        self.costs = costs
        # Changes with the predictions.
        self.version = 0
        self._target, self._padded = target, padded
        self._bucket = 0
        self._known: dict[tuple[str, int], float] = {}
        self._told: dict[int, float] = {}
        self._slowness = Ratio(*_FRESH)
        self._latest_rows = 0
        self._rows: dict[int, Ratio] = {}
        self._drafters: dict[str, Ratio] = {}

    @property
    def step_seconds(self) -> float:
        """Our own work in every step."""
        return self.costs.step_seconds

    @property
    def node_seconds(self) -> Mapping[Shape, float]:
        """Our own work for a node of a draft."""
        return self.costs.node_seconds

    @property
    def slowness(self) -> float:
        """How many times longer everything takes at the moment than is predicted."""
        return self._slowness.value

    def at(self, context: int) -> None:
        """Predictions are for so many tokens of text from now on."""
        bucket = context // _BUCKET
        if bucket != self._bucket:
            self._bucket = bucket
            self._known.clear()
            self._change()

    def target(self, rows: int) -> float:
        """Seconds of a forward of the target with ``rows`` rows."""
        seconds = self._told.get(rows)
        if seconds is None:
            padded = self._padded(rows)
            ratio = self._rows.get(padded)
            seconds = self.forward(self._target, padded) * (ratio.value if ratio is not None else 1.0)
            self._told[rows] = seconds
        return seconds

    def plain(self) -> float:
        """Seconds of a step without a draft."""
        return self.target(1) + self.costs.step_seconds

    def forecast(
        self, method: str, drafter: str | None, limit: DraftLimit, estimate: StepEstimate, node_seconds: float = 0.0
    ) -> Forecast:
        """Of a step of ``method`` as the shared model estimates it; what is beside the target's forward is corrected."""
        seconds = estimate.verifying + (estimate.drafting + self.step_seconds) * self.correction(method)
        return Forecast(
            method, drafter, limit, estimate.tokens, seconds, estimate.drafting, estimate.drafted, node_seconds
        )

    def expected(self, forecast: Forecast, drafted: int) -> float:
        """Seconds of a step that was taken on ``forecast``, from the number of tokens ``drafted`` in it."""
        return self.target(1 + drafted) + self._beside(forecast, drafted) * self.correction(forecast.family)

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
        """What a step of a family takes beside the target's forward over what was calibrated."""
        ratio = self._drafters.get(family)
        return 1.0 if ratio is None else ratio.value

    def saw(self, forecast: Forecast, step: Step) -> None:
        """What a step took that was taken on ``forecast``."""
        # Masks and what else trees need is in the target's time. With a small model it would pass for a slow machine.
        shape = forecast.limit.shape
        nodes = step.num_drafted * self.costs.node_seconds[shape] if shape == "tree" else 0.0
        slowness = self.slowness
        if nodes <= _MOST_BESIDE * step.target_seconds:
            slowness = self._saw_target(self._padded(1 + step.num_drafted), step.target_seconds)
        beside = self._beside(forecast, step.num_drafted)
        if forecast.drafter is not None and beside > 0 and step.rows_read <= FEW_ROWS:
            ratio = self._drafters.setdefault(forecast.family, Ratio(*_FRESH))
            self._correct(ratio, (step.seconds - step.target_seconds) / (beside * slowness))

    def _beside(self, forecast: Forecast, drafted: int) -> float:
        scale = drafted / forecast.drafted if forecast.drafted else 1.0
        return forecast.draft_seconds * scale + self.costs.step_seconds

    def _saw_target(self, rows: int, seconds: float) -> float:
        """How slow the machine was, by a forward that took so many seconds."""
        expected, ratio = self.forward(self._target, rows), self._rows.setdefault(rows, Ratio(*_ROWS_FRESH))
        if not 0 < expected < float("inf") or seconds <= 0:
            return self.slowness
        if self._latest_rows not in (0, rows):
            self._correct(ratio, seconds / (expected * self.slowness))
        self._latest_rows = rows
        slowness = seconds / (expected * ratio.value)
        self._slowness.observe(slowness)
        return slowness

    def _correct(self, ratio: Ratio, observed: float) -> None:
        ratio.observe(observed)
        if not NEARLY < ratio.value / ratio.told < 1 / NEARLY:
            ratio.told = ratio.value
            self._change()

    def _change(self) -> None:
        self._told.clear()
        self.version += 1
