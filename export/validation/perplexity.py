"""How well logits predict a text. NumPy alone: what runs a written bundle needs no torch for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from export.sources.tensor_source import FloatArray

_MOST_SURPRISE = np.log(1e300)


def surprises(logits: FloatArray, tokens: Sequence[int]) -> list[float]:
    """Negative log probability of each of ``tokens`` in nats, row ``i`` of ``logits`` predicting token ``i``."""
    found = []
    for row, token in zip(logits, tokens, strict=False):
        peak = row.max()
        found.append(float(peak + np.log(np.exp(row - peak, dtype=np.float64).sum()) - row[token]))
    return found


def perplexity(surprises: Sequence[float]) -> float:
    """Perplexity per token of tokens with these surprises.

    Random weights may give more than there are numbers for; 1e300 stands for all of that.
    """
    return float(np.exp(min(np.mean(surprises), _MOST_SURPRISE)))
