"""Operations of rejection rules on two distributions: the target's and the drafter's.

Their vocabularies may differ in size, since levels of one family may be padded differently; a token that one of them
lacks has probability zero there. Arithmetic is in float64. A full vocabulary is read only to add it up, and once more
for a rejection.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.decoding.exact_math import total

Array = npt.NDArray[np.float64]
Probs = npt.NDArray[np.floating[Any]]


class Law:
    """An unnormalized distribution, float ``[vocab]``, which is not modified."""

    def __init__(self, weights: Probs) -> None:
        self.weights = weights
        self.total = total(weights)

    def chance(self, token: int) -> float:
        """The probability of ``token``; 0 beyond the vocabulary."""
        return float(self.weights[token]) / self.total if token < len(self.weights) and self.total > 0 else 0.0

    def without(self, token: int) -> Law:
        """The distribution without ``token``."""
        weights = self.weights.copy()
        weights[token] = 0
        return Law(weights)

    def excess(self, other: Law, scale: float = 1.0) -> Law:
        """The excess of ``scale`` times this distribution over ``other``, per token; ``total`` in [0, scale]."""
        left = self.weights * np.float64(scale / self.total)
        shared = min(len(left), len(other.weights))
        left[:shared] -= other.weights[:shared] * np.float64(1 / other.total)
        np.maximum(left, 0.0, out=left)
        return Law(left)
