"""The uncertainty of numbers: medians with their range, and ratios with a confidence interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
_DRAWS = 4000
_SEED = 20250522  # fixed, so that the same measurements have the same interval
_Z = 1.959964
# Student's 97.5% quantile for 1 to 4 degrees of freedom, where the expansion below is off by more than 0.3%.
_FEW = (12.7062, 4.3027, 3.1824, 2.7764)


@dataclass(frozen=True)
class Spread:
    """Median and range over the repeats."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """The spread of ``values``."""
    return Spread(statistics.median(values), min(values), max(values))


def show_spread(value: Spread, form: str) -> str:
    """Median and range in the format ``form``."""
    return f"{value.median:{form}} ({value.low:{form}}-{value.high:{form}})"


@dataclass(frozen=True)
class RatioInterval:
    """A ratio over ``count`` prompts: the geometric mean, and the ends of its 95% confidence interval.

    One prompt says nothing about others, so it has no interval.
    """

    value: float
    low: float | None
    high: float | None
    count: int

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.2f} (n=1, no interval)"
        return f"{self.value:.2f} ({self.low:.2f}-{self.high:.2f})"


def mean_ratio(ratios: Sequence[Sequence[float]]) -> RatioInterval | None:
    """The geometric mean of ratios, with its interval; None if there are none.

    ``ratios`` has a sequence for every prompt, with one ratio for every repeat. Repeats of a prompt are no evidence
    about other prompts, so they are averaged and only prompts are resampled (bootstrap of the logarithms, 4,000 draws
    with a fixed seed). The bootstrap interval of few prompts is too narrow, so it is widened by the ratio of Student's
    to the normal quantile (Hesterberg, arXiv 1411.5279, section 4.2).
    """
    logs = np.array([statistics.fmean(map(math.log, prompt)) for prompt in ratios if prompt])
    count = len(logs)
    if count == 0:
        return None
    center = float(logs.mean())
    if count == 1:
        return RatioInterval(math.exp(center), None, None, 1)
    draws = np.random.default_rng(_SEED).integers(count, size=(_DRAWS, count))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(logs[draws].mean(axis=1), [tail, 1 - tail]) - center
    wider = _student(count - 1) / _Z * math.sqrt(count / (count - 1))
    return RatioInterval(math.exp(center), math.exp(center + wider * low), math.exp(center + wider * high), count)


def _student(freedom: int) -> float:
    """The 97.5% quantile of Student's distribution (Abramowitz and Stegun 26.7.5)."""
    if freedom <= len(_FEW):
        return _FEW[freedom - 1]
    z = _Z
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(float(term / freedom**power) for power, term in enumerate(terms, 1))
