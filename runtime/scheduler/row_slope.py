"""How much dearer than one row more rows of the target really are, as a multiple of what was calibrated.

A calibration that was made on a busy machine is wrong for all row counts in the same way: too steep or too flat. So one
number is estimated, the slope: of a forward of r rows that was calibrated to take (1 + e) times as long as one of a
single row, (1 + slope e) is expected. What two row counts show says something about all others, also those never tried.

It is an extended Kalman filter over pairs of consecutive steps with different row counts. The logarithm of the ratio of
their seconds does not depend on how slow the machine is as a whole. How much it varies by itself is learnt from pairs,
those of equal row counts too: where other programs run, a single pair says little. A pair that no slope can explain was
held up and is left out. A pair that contradicts the estimate may have been held up and is left out as well; the second
in the same direction is believed.
"""

from __future__ import annotations

import math

# Standard deviation of the logarithm of a pair's ratio at first and at least, and of the slope before the first pair.
_NOISE, _UNSURE = 0.15, 0.4
# How much the latest pair changes the logarithm of that variance, after the first ten.
_LATEST_NOISE = 0.1
# Variance that the slope gains from pair to pair: it may drift.
_DRIFT = 3e-4
# A pair this many standard deviations away from what is expected contradicts it.
_CONTRADICTS = 3.0


class RowSlope:
    """A row count is given by its ``extra``: how much longer than one row it was calibrated to take (0.5: half)."""

    def __init__(self) -> None:
        self.value = 1.0
        self._variance, self._noise = _UNSURE**2, _NOISE**2
        self._heard = 0
        self._before: tuple[float, float] | None = None
        # The sensitivity of a pair that contradicted the estimate; its sign says whether rows seemed dearer.
        self._doubt = 0.0

    def factor(self, extra: float) -> float:
        """Expected seconds of a forward over those of a single row."""
        return 1 + self.value * extra

    def observe(self, extra: float, seconds: float) -> None:
        """A forward took ``seconds``; it is compared with the one before."""
        before, self._before = self._before, (extra, seconds)
        if before is None:
            return
        ratio = math.log(seconds / before[1])
        if extra == before[0]:
            self._hear(ratio**2 / self._noise)
            return
        if not _is_possible(ratio, extra, before[0], _CONTRADICTS * math.sqrt(self._noise)):
            self._hear(math.inf)
            self._before = None
            return
        sensitivity = extra / self.factor(extra) - before[0] / self.factor(before[0])
        surprise = ratio - math.log(self.factor(extra) / self.factor(before[0]))
        spread = sensitivity**2 * self._variance + self._noise
        self._hear(surprise**2 / spread)
        if abs(surprise) > _CONTRADICTS * math.sqrt(spread):
            doubt, self._doubt = self._doubt, math.copysign(sensitivity, surprise * sensitivity)
            if doubt * self._doubt <= 0:
                self._before = None
                return
            self._doubt = 0.0
            self._variance = max(self._variance, _UNSURE**2, self.value**2)
            spread = sensitivity**2 * self._variance + self._noise
        elif abs(sensitivity) > abs(self._doubt) / 2:  # other pairs say nothing about what was in doubt
            self._doubt = 0.0
        gain = self._variance * sensitivity / spread
        self.value = max(self.value + gain * surprise, 0.0)
        self._variance = (1 - gain * sensitivity) * self._variance + _DRIFT

    def _hear(self, square: float) -> None:
        """A pair's surprise, squared, in units of its variance: a third of them exceed 1 where that is right.

        The share does not ask by how much, so rare long hold-ups change nothing (Robbins and Monro 1951).
        """
        self._heard += 1
        step = max(1 / self._heard, _LATEST_NOISE)
        self._noise = max(self._noise * math.exp(step * ((square > 1) - 1 / 3)), _NOISE**2)


def _is_possible(ratio: float, extra: float, before: float, most: float) -> bool:
    """Whether any slope explains the logarithm of a pair's ratio: with fewer rows nothing takes longer."""
    steep = math.inf if extra > before else -math.inf
    if min(extra, before) > 0:
        steep = math.log(extra / before)
    return min(0.0, steep) - most <= ratio <= max(0.0, steep) + most
