"""How well logits predict a text: the one formula for it, in every package. It needs NumPy and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_MOST_NATS = np.log(1e300)
# Logits that are converted to float64 at a time: 64 KiB of them.
_PIECE = 8192


def log_sum_exp(logits: npt.NDArray[np.floating[Any]]) -> float:
    """The natural logarithm of the sum of the exponentials of ``logits``, ``[vocab]``, in float64.

    A logit less this number is the log probability of its token. NaN if the largest logit is not finite.
    """
    peak = float(logits.max())
    total = 0.0
    for start in range(0, len(logits), _PIECE):
        powers = np.subtract(logits[start : start + _PIECE], peak, dtype=np.float64)
        total += float(np.exp(powers, out=powers).sum())
    return peak + float(np.log(total))


def surprises(
    logits: npt.NDArray[np.floating[Any]], tokens: Sequence[int], known: Sequence[int] | None = None
) -> list[float]:
    """Negative log probability of each of ``tokens`` in nats, row ``i`` of ``logits`` predicting token ``i``.

    ``known`` has the tokens that logits are of, if those are not of all; other tokens are left out.
    """
    columns = None if known is None else {token: column for column, token in enumerate(known)}
    pairs = [
        (row, token if columns is None else columns.get(token)) for row, token in zip(logits, tokens, strict=False)
    ]
    return [log_sum_exp(row) - float(row[column]) for row, column in pairs if column is not None]


def perplexity(surprises: Sequence[float]) -> float:
    """Perplexity per token of tokens with these surprises."""
    return perplexity_at(float(np.mean(surprises)))


def perplexity_at(mean: float) -> float:
    """The perplexity of tokens with a ``mean`` surprise in nats.

    Random weights may give more than there are numbers for; 1e300 stands for all of that.
    """
    return float(np.exp(min(mean, _MOST_NATS)))
