"""Tests of fit, without scipy.stats: it takes a second to import, in every process of the tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc, kolmogorov


def chi_square(observed: Sequence[float], expected: Sequence[float]) -> float:
    """Pearson's p-value of counts, where counts in the proportions of ``expected`` were to be expected."""
    counts, means = np.asarray(observed, float), np.asarray(expected, float)
    means = means * counts.sum() / means.sum()
    return float(chdtrc(len(counts) - 1, ((counts - means) ** 2 / means).sum()))


def uniformity(numbers: npt.NDArray[np.float64]) -> float:
    """Kolmogorov's and Smirnov's p-value of many numbers, where numbers spread evenly over [0, 1) were expected."""
    size, places = len(numbers), np.sort(numbers)
    steps = np.arange(size + 1) / size
    return float(kolmogorov(np.sqrt(size) * max((steps[1:] - places).max(), (places - steps[:-1]).max())))
