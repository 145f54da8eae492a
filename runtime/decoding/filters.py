"""The searches of top_k and top_p: exact, in a few passes over a vocabulary instead of a sort."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from runtime.arrays import FloatArray, Scratch, at_least
from runtime.decoding.allowed_tokens import AllowedTokens
from runtime.decoding.exact_math import Ids, running_sums, total

# Every 37th logit is in the sample from which the cut of top_k is estimated; the cut itself is exact.
_STRIDE = 37
# Fewer candidates than this are sorted, which then costs less than another pass.
_FEW = 2048

_floats, _masks = Scratch(np.float32), Scratch(np.bool_)


def places_of_largest(row: FloatArray, k: int, allowed: AllowedTokens | None = None) -> Ids | None:
    """Where the k largest entries of ``row`` are that are ``allowed``, ascending; more than k if they tie.

    None if fewer than k are larger than minus infinity: nothing else is left out.
    """
    cut = _likely_cut(row, k)
    if cut is not None and math.isfinite(cut):
        places = np.flatnonzero(at_least(row, cut))
        if allowed is not None:
            places = places[allowed.holds(places)]
        if len(places) >= k:
            values = row[places]
            return places[values >= _kth_largest(values, k)]
    if allowed is not None:
        row = allowed.masked(row, _floats.take("allowed", len(row)))
    least = _kth_largest(row, k)
    return np.flatnonzero(at_least(row, least)) if math.isfinite(least) else None


def kth_largest(row: FloatArray, k: int) -> np.float32:
    """The k-th largest entry."""
    cut = _likely_cut(row, k)
    if cut is not None:
        candidates = row[at_least(row, cut)]
        if len(candidates) >= k:
            row = candidates
    return _kth_largest(row, k)


def _likely_cut(row: FloatArray, k: int) -> np.float32 | None:
    """A cut that leaves a few hundred more than k entries, most likely, estimated from a sample; None: all are left."""
    sample = np.sort(row[::_STRIDE])
    rank = k // _STRIDE + 8 + 4 * math.isqrt(k // _STRIDE)
    return np.float32(sample[len(sample) - rank]) if rank < len(sample) else None


def _kth_largest(row: FloatArray, k: int) -> np.float32:
    return np.float32(np.partition(row, len(row) - k)[len(row) - k])


def nucleus_floor(weights: FloatArray, whole: float, top_p: float) -> float:
    """The smallest weight of the nucleus: the fewest, largest weights that have ``top_p`` of the sum, ``whole``.

    It is a search for a quantile. While there are many candidates, a sample brackets the smallest weight, and the mass
    above the bracket is added up; the remaining candidates are sorted. Weights of zero are none of them, so that tokens
    that a constraint excludes change nothing.
    """
    pool = weights[weights > 0] if weights.min() == 0 else weights
    mass, above, below = top_p * whole, 0.0, 0.0
    while len(pool) > _FEW:
        low, high = _bracket(pool, whole - mass - below)
        is_upper = np.greater(pool, high, out=_masks.take("upper", len(pool)))
        upper_mass = _masked_sum(pool, is_upper)
        if above + upper_mass >= mass and is_upper.any():
            below, pool = whole - above - upper_mass, pool[is_upper]
            continue
        is_middle = at_least(pool, low)
        is_middle ^= is_upper
        middle = pool[is_middle]
        middle_mass = total(middle)
        has_more = above + upper_mass + middle_mass < mass
        is_lower = np.less(pool, low, out=is_middle) if has_more else None
        if len(middle) == len(pool) or (is_lower is not None and not is_lower.any()):
            break  # ties, which no bracket separates, or a sum that rounding made too small
        above += upper_mass
        if is_lower is None:
            below, pool = whole - above - middle_mass, middle
        else:
            above, pool = above + middle_mass, pool[is_lower]
    descending = np.sort(pool)[::-1]
    ends = above + running_sums(descending)
    return float(descending[min(int(ends.searchsorted(mass)), len(descending) - 1)])


def _bracket(pool: FloatArray, mass: float) -> tuple[np.float32, np.float32]:
    """Two weights that probably enclose the cut which leaves ``mass`` of ``pool`` below it.

    They are estimated from the small end of a sample, which misses the few largest weights that often have most of the
    mass.
    """
    sample = np.sort(pool[:: max(1, len(pool) // _FEW)])
    ends = running_sums(sample) * (len(pool) / len(sample))
    rank, slack = int(ends.searchsorted(mass)), len(sample) // 32
    return sample[max(min(rank, len(sample) - 1) - slack, 0)], sample[min(rank + slack, len(sample) - 1)]


def _masked_sum(values: FloatArray, mask: npt.NDArray[np.bool_]) -> float:
    """The sum of ``values`` where ``mask``; gathering them first is faster only if they are few."""
    few = np.count_nonzero(mask) < len(values) // 8
    masked = values[mask] if few else np.multiply(values, mask, out=_floats.take("masked", len(values)))
    return total(masked)
