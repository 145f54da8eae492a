"""Calibrated confidence: the chance that a drafted token is accepted, from the probability that its drafter gave it.

The drafter's own probability of a token (its raw confidence) ranks guesses well, but it is not the chance of
acceptance. Models are overconfident, and under sampling acceptance depends on how far two distributions overlap. So the
outcome of earlier tokens corrects the raw value. The product of the corrected chances is the chance that the whole
draft is accepted. A drafter stops when that is too small to be worth another forward, as in AdaEDL (arXiv 2410.18351)
and SpecDec++ (arXiv 2405.19715), but without training.

A draft may stop after any token that it keeps. It must not discard the token that made it stop: the tokens left would
no longer be distributed as the drafter's distributions say, and sampling would not be exact.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

from memory.isotonic import nearest_rising
from runtime.decoding.sampling import SamplingParams

# Raw confidence is binned by its logit; these are the centres of the bins, 1 apart.
_CENTRES = tuple(float(centre) for centre in range(-5, 7))
# Heuristics. In each bin, the assumption that raw confidence is right weighs as much as this many observations.
_PRIOR = 6.0
# The weight of an observation decays with every later one, with this time constant: the tokens of a few answers.
_MEMORY = 1000.0
_KEPT = 1 - 1 / _MEMORY
# Probabilities closer to 0 or 1 count as this far away, so that logits are finite.
_NEVER = 1e-6


class ConfidenceCalibration:
    """The chance of acceptance as a rising function of raw confidence, learned online.

    In each bin, the mean error of the observations corrects the raw value; few observations correct less. Between the
    centres of bins, corrections are interpolated. Without observations the chance is the raw confidence.
    """

    def __init__(self) -> None:
        self._weights = [0.0] * len(_CENTRES)
        self._errors = [0.0] * len(_CENTRES)
        self._shifts: list[float] | None = None

    @property
    def is_blank(self) -> bool:
        """Whether nothing was observed yet."""
        return not any(self._weights)

    def observed(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """All that was observed: for every bin its weight and the sum of its errors."""
        return tuple(self._weights), tuple(self._errors)

    def learn(self, weights: Sequence[float], errors: Sequence[float]) -> None:
        """Takes over what another calibration ``observed``; nothing if that had other bins."""
        if len(weights) == len(errors) == len(_CENTRES):
            self._weights, self._errors, self._shifts = list(weights), list(errors), None

    def observe(self, raw: float, accepted: bool) -> None:
        """Learns from a token of confidence ``raw`` that was ``accepted`` or not, and whose ancestors all were."""
        place = min(range(len(_CENTRES)), key=lambda bin: abs(_CENTRES[bin] - _logit(raw)))
        self._weights = [weight * _KEPT for weight in self._weights]
        self._errors = [error * _KEPT for error in self._errors]
        self._weights[place] += 1
        self._errors[place] += float(accepted) - raw
        self._shifts = None

    def __call__(self, raw: float) -> float:
        """The chance that a token of confidence ``raw`` is accepted, above 0 and below 1."""
        shifts = self._shifts  # read once: an overlapped drafter calls this while another thread observes
        if shifts is None:
            shifts = self._shifts = self._fitted()
        place = _logit(raw)
        right = bisect_right(_CENTRES, place)
        if right in (0, len(_CENTRES)):
            return _sigmoid(place + shifts[min(right, len(_CENTRES) - 1)])
        share = place - _CENTRES[right - 1]
        return _sigmoid(place + shifts[right - 1] * (1 - share) + shifts[right] * share)

    def _fitted(self) -> list[float]:
        """The correction of the logit at each centre, such that the corrected chances rise."""
        values = [
            _sigmoid(centre) + error / (weight + _PRIOR)
            for centre, error, weight in zip(_CENTRES, self._errors, self._weights, strict=True)
        ]
        rising = nearest_rising(values, [weight + _PRIOR for weight in self._weights])
        return [_logit(value) - centre for value, centre in zip(rising, _CENTRES, strict=True)]


def uncalibrated(raw: float) -> float:
    """Raw confidence as the chance of acceptance: the best estimate before any observation."""
    return raw


def is_worth_extending(survival: float, drafted: int, floor: float) -> bool:
    """Whether one more token is accepted with a chance of at least ``floor``.

    ``survival`` is the chance that all ``drafted`` tokens so far are accepted. The next token's own chance is unknown
    before its forward; it is taken to be the geometric mean of theirs (a heuristic).
    """
    return math.pow(survival, 1 + 1 / drafted) >= floor


def confidence_sampling(params: SamplingParams) -> SamplingParams:
    """The settings whose probabilities are raw confidence: ``params``; at temperature 0, those of the plain softmax."""
    if params.temperature > 0:
        return params
    return replace(params, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)


def _logit(chance: float) -> float:
    chance = min(max(chance, _NEVER), 1 - _NEVER)
    return math.log(chance / (1 - chance))


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))
