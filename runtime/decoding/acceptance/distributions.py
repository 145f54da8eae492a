"""Two distributions side by side: what rejection rules ask of the target's and the drafter's.

They may be over vocabularies of different width, as levels of one family pad theirs differently; a token that one of
them lacks has probability zero there. Arithmetic is in float64. A full vocabulary is touched only to add it up, and
once more by a rejection.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.decoding.exact_math import total

Array = npt.NDArray[np.float64]
Probs = npt.NDArray[np.floating[Any]]


class Law:
    """A distribution given up to a factor, float ``[vocab]``, which it does not change."""

    def __init__(self, weights: Probs) -> None:
        self.weights = weights
        self.total = total(weights)

    def chance(self, token: int) -> float:
        """The probability of ``token``, 0 beyond the vocabulary."""
        return float(self.weights[token]) / self.total if token < len(self.weights) and self.total > 0 else 0.0

    def without(self, token: int) -> Law:
        """The law of a draw that is not ``token``."""
        weights = self.weights.copy()
        weights[token] = 0
        return Law(weights)

    def excess(self, other: Law, scale: float = 1.0) -> Law:
        """By how much ``scale`` times this law exceeds ``other``, token by token; its ``total`` is in [0, scale]."""
        left = self.weights * np.float64(scale / self.total)
        shared = min(len(left), len(other.weights))
        left[:shared] -= other.weights[:shared] * np.float64(1 / other.total)
        np.maximum(left, 0.0, out=left)
        return Law(left)
