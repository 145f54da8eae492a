"""How sure a drafter may be: from the probability it gave a token to the chance that the token is accepted.

A drafter's own probability of a token it drafted (its raw confidence) tells good guesses from bad ones, but is no
chance of acceptance: models are too sure of themselves, and under sampling a token is accepted by how far two
distributions overlap. So what became of earlier tokens corrects it. With the chances of all drafted tokens multiplied,
a drafter knows when another forward of its own is not worth it (as AdaEDL and SpecDec++ stop, without their training).

A draft may stop after any token it keeps. To throw away the token that made it stop would change the law of drafts that
are drawn: what is left would no longer be what the drafter's distributions say.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import replace

from memory.isotonic import nearest_rising
from runtime.decoding.sampling import SamplingParams

# Raw confidence is sorted by its logit, into bins of this width and centres.
_CENTRES = tuple(float(centre) for centre in range(-5, 7))
# So many observations in a bin weigh as much as the assumption that the raw confidence is right, and all fade with new
# ones, as if no more than so many were remembered: as many tokens as a few answers have. Heuristics.
_PRIOR, _MEMORY = 6.0, 1000.0
_KEPT = 1 - 1 / _MEMORY
_NEVER = 1e-6


class ConfidenceCalibration:
    """The chance of acceptance as a rising function of raw confidence, learnt as it is used.

    In every bin the mean error of the observations, drawn towards none where they are few, corrects the raw value;
    between the bins' centres corrections are interpolated. Without observations nothing is corrected.
    """

    def __init__(self) -> None:
        self._weights = [0.0] * len(_CENTRES)
        self._errors = [0.0] * len(_CENTRES)
        self._shifts: list[float] | None = None

    def observe(self, raw: float, accepted: bool) -> None:
        """A token of confidence ``raw``, all above it accepted, was accepted itself or not."""
        place = min(range(len(_CENTRES)), key=lambda bin: abs(_CENTRES[bin] - _logit(raw)))
        self._weights = [weight * _KEPT for weight in self._weights]
        self._errors = [error * _KEPT for error in self._errors]
        self._weights[place] += 1
        self._errors[place] += float(accepted) - raw
        self._shifts = None

    def __call__(self, raw: float) -> float:
        """The chance of a token of confidence ``raw``, above 0 and below 1."""
        shifts = self._shifts  # once: another thread may observe meanwhile, if a drafter looks ahead
        if shifts is None:
            shifts = self._shifts = self._fitted()
        place = _logit(raw)
        right = bisect_right(_CENTRES, place)
        if right in (0, len(_CENTRES)):
            return _sigmoid(place + shifts[min(right, len(_CENTRES) - 1)])
        share = place - _CENTRES[right - 1]
        return _sigmoid(place + shifts[right - 1] * (1 - share) + shifts[right] * share)

    def _fitted(self) -> list[float]:
        """By how much the logit is off at each centre, such that the result rises."""
        values = [
            _sigmoid(centre) + error / (weight + _PRIOR)
            for centre, error, weight in zip(_CENTRES, self._errors, self._weights, strict=True)
        ]
        rising = nearest_rising(values, [weight + _PRIOR for weight in self._weights])
        return [_logit(value) - centre for value, centre in zip(rising, _CENTRES, strict=True)]


def uncalibrated(raw: float) -> float:
    """Raw confidence taken for the chance itself: what is known before anything was observed."""
    return raw


def is_worth_extending(survival: float, drafted: int, floor: float) -> bool:
    """Whether one more token is worth it, with chance ``survival`` that all ``drafted`` ones are accepted.

    The next one, of which nothing is known yet, is taken to be as good as those were on average (a heuristic).
    """
    return math.pow(survival, 1 + 1 / drafted) >= floor


def confidence_sampling(params: SamplingParams) -> SamplingParams:
    """The settings that tell raw confidence: those in force, or the model's own distribution at temperature 0."""
    if params.temperature > 0:
        return params
    return replace(params, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)


def _logit(chance: float) -> float:
    chance = min(max(chance, _NEVER), 1 - _NEVER)
    return math.log(chance / (1 - chance))


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))
