"""What a token is drawn from: the weights of all tokens, or of the few that have any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.arrays import FloatArray
from runtime.decoding.exact_math import COLUMNS, Doubles, Ids, column_sums, running_sums, scattered_sums

Weights = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Distribution:
    """``weights`` of the ascending ``tokens`` of a vocabulary of ``size`` (None: of all), which need not sum to one.

    Weights of some tokens are float32.
    """

    size: int
    weights: Weights
    tokens: Ids | None = None

    def draw(self, u: float) -> int:
        """The token at ``u`` in [0, 1) of the cumulative weights.

        Tokens are added up column by column, as in ``exact_math.column_sums``: up to 512 tokens in their own order.
        Sums are in float64; a token of weight zero is never returned. The token does not depend on whether tokens
        without weight are among those listed.
        """
        tokens, weights = self.tokens, self.weights
        sums = column_sums(weights) if tokens is None else scattered_sums(tokens, weights, self.size)
        column, left = _locate(sums, u * float(running_sums(sums)[-1]))
        if self.size < COLUMNS:
            return column
        return column + COLUMNS * _locate(self._column(column), left)[0]

    def chance(self, token: int) -> float:
        """The weight of ``token``."""
        if self.tokens is None:
            return float(self.weights[token])
        place = int(self.tokens.searchsorted(token))
        return float(self.weights[place]) if place < len(self.tokens) and self.tokens[place] == token else 0.0

    def dense(self, out: FloatArray) -> FloatArray:
        """The weights of all tokens, written to ``out``, float32 ``[size]``, which may be where they are."""
        if self.tokens is not None:
            out.fill(0)
            out[self.tokens] = self.weights
        elif out is not self.weights:
            out[:] = self.weights
        return out

    def _column(self, column: int) -> Weights:
        """The weights of every 512th token from ``column`` on."""
        if self.tokens is None:
            return self.weights[column::COLUMNS]
        inside = self.tokens % COLUMNS == column
        weights = np.zeros(-(-(self.size - column) // COLUMNS), self.weights.dtype)
        weights[self.tokens[inside] // COLUMNS] = self.weights[inside]
        return weights


def _locate(weights: Weights | Doubles, point: float) -> tuple[int, float]:
    """The interval of cumulative ``weights`` that contains ``point``, never an empty one, and the offset in it."""
    ends = running_sums(weights)
    index = int(ends.searchsorted(point, side="right"))
    if index == len(ends):  # rounding put the point at or past the end
        index = int(np.flatnonzero(weights)[-1])
    return index, point - (float(ends[index - 1]) if index else 0.0)
