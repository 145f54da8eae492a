"""From logits to a token: Hugging Face's settings in Hugging Face's order, and random numbers fixed by position.

The order is repetition penalty, temperature, top_k, top_p, min_p (``GenerationMixin._get_logits_processor``). There is
one deliberate difference: if tokens tie at the edge of top_p, all of them stay, so the result does not depend on a
sort.

Random numbers have no state. Each is a hash of (seed, position, stream, index), the same on every platform, so plain
and speculative decoding use the same number at the same position. A drafter must not use a number in two steps, because
in block verification a late draft token influences an early one. So it takes the step's first position and counts its
draws with ``index``.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from export.manifest import PocketspecError
from runtime.arguments import as_real, as_whole
from runtime.arrays import FloatArray, Scratch, TokenArray, at_least
from runtime.decoding.exact_math import COLUMNS, LOG2_E, column_sums, raise_two, running_sums, total
from runtime.errors import LogitsError

# Every 37th logit is in the sample from which the cut of top_k is estimated; the cut itself is exact.
_STRIDE = 37
# Fewer candidates than this are sorted, which then costs less than another pass.
_FEW = 2048

_MASK = (1 << 64) - 1

_floats, _masks = Scratch(np.float32), Scratch(np.bool_)


class SamplingError(PocketspecError, ValueError):
    """A sampling setting outside its range."""


class RandomStream(enum.IntEnum):
    """What a random number is for. Numbers of different streams are independent, as the acceptance rules require.

    ``BELOW`` seeds each draft of a level that decodes ahead, with a verifier and a drafter of its own.
    """

    TARGET = 0
    VERIFIER = 1
    DRAFTER = 2
    BELOW = 3


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen, under Hugging Face's names. The defaults are greedy.

    ``temperature`` 0 takes the most probable token, the lowest id at a tie. ``top_k`` 0, ``top_p`` 1, ``min_p`` 0 and
    ``repetition_penalty`` 1 have no effect; the penalty also applies to greedy decoding. SamplingError names a bad
    value.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        self._check("temperature", 0.0, 1e6, "0 is greedy, 1 the model's own distribution")
        if 0 < self.temperature < 1e-6:
            raise SamplingError(f"temperature is {self.temperature}, allowed: 0 or 1e-06 to 1e+06; 0 is greedy")
        self._check_whole("top_k", (1 << 31) - 1, "0 keeps every token")
        self._check("top_p", 0.0, 1.0, "1 keeps every token")
        self._check("min_p", 0.0, 1.0, "0 keeps every token")
        self._check("repetition_penalty", 1e-3, 1e3, "1 is none, 1.1 a usual one")
        self._check_whole("seed", _MASK, "any whole number in that range will do")

    def _check(self, name: str, low: float, high: float, hint: str) -> None:
        value = getattr(self, name)
        number = as_real(value)
        if number is None or not low <= number <= high:
            raise SamplingError(f"{name} is {value!r}, allowed: {low:g} to {high:g}; {hint}")
        object.__setattr__(self, name, number)

    def _check_whole(self, name: str, high: int, hint: str) -> None:
        value = getattr(self, name)
        number = as_whole(value)
        if number is None or not 0 <= number <= high:
            raise SamplingError(f"{name} is {value!r}, allowed: whole numbers from 0 to {high}; {hint}")
        object.__setattr__(self, name, number)


def greedy_token(logits: FloatArray, tokens: Sequence[int] | TokenArray, params: SamplingParams) -> int:
    """The most probable token after the repetition penalty, the lowest id at a tie.

    ``logits`` is float32 ``[vocab]``; ``tokens`` is everything before it, read only if there is a penalty.
    """
    row = logits
    if params.repetition_penalty != 1.0:
        row = _penalize(logits, tokens, params.repetition_penalty, _floats.take("penalized", len(logits)))
    token = int(row.argmax())
    if not math.isfinite(row[token]):
        raise logits_error(row[token])
    return token


def probabilities(
    logits: FloatArray,
    tokens: Sequence[int] | TokenArray,
    params: SamplingParams,
    out: FloatArray | None = None,
) -> FloatArray:
    """The distribution the next token is drawn from, float32 ``[vocab]``; excluded tokens have exactly 0.

    It is written to ``out`` (None: to a new array) and returned. The other arguments are those of ``greedy_token``. At
    temperature 0 it is certain of the greedy token. LogitsError if the logits are not numbers.
    """
    out = np.empty(len(logits), np.float32) if out is None else out
    if params.temperature == 0:
        token = greedy_token(logits, tokens, params)
        out.fill(0)
        out[token] = 1.0
        return out
    row = logits
    if params.repetition_penalty != 1.0:
        row = _penalize(logits, tokens, params.repetition_penalty, out)
    top = row.max()
    if not math.isfinite(top):
        raise logits_error(top)
    if not 0 < params.top_k < len(row):
        return _distribution(row, top, params, out)
    kept = np.flatnonzero(at_least(row, kth_largest(row, params.top_k)))
    row = row[kept]
    weights = _distribution(row, top, params, row)
    out.fill(0)
    out[kept] = weights
    return out


def passing_row(size: int) -> FloatArray:
    """A scratch row for ``out``, float32 ``[size]``; valid until this thread takes it again."""
    row: FloatArray = _floats.take("passing", size)
    return row


def draw(probs: npt.NDArray[np.floating[Any]], u: float) -> int:
    """The token at ``u`` in [0, 1) of the cumulative ``probs``, float ``[vocab]``, which need not sum to one exactly.

    Tokens are added up column by column, as in ``exact_math.column_sums``: up to 512 tokens in their own order. Sums
    are in float64; a token of probability zero is never returned.
    """
    sums = column_sums(probs)
    column, left = _locate(sums, u * float(running_sums(sums)[-1]))
    return column if len(probs) < COLUMNS else column + COLUMNS * _locate(probs[column::COLUMNS], left)[0]


def uniform(seed: int, position: int, stream: RandomStream = RandomStream.TARGET, index: int = 0) -> float:
    """A number in [0, 1) with 53 random bits: a hash of its arguments (SplitMix64, integers only)."""
    state = _mix(seed)
    for word in (position, int(stream), index):
        state = _mix(state ^ word)
    return (state >> 11) * 2.0**-53


def seed_below(seed: int, position: int) -> int:
    """The seed of a level that decodes ahead of ``position``; its numbers are independent of all others."""
    return int(uniform(seed, position, RandomStream.BELOW) * 2.0**53)


def _mix(word: int) -> int:
    """One step of SplitMix64 (Steele, Lea and Flood 2014)."""
    word = (word + 0x9E3779B97F4A7C15) & _MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
    return word ^ (word >> 31)


def _locate(weights: npt.NDArray[np.floating[Any]], point: float) -> tuple[int, float]:
    """The interval of cumulative ``weights`` that contains ``point``, never an empty one, and the offset in it."""
    ends = running_sums(weights)
    index = int(ends.searchsorted(point, side="right"))
    if index == len(ends):  # rounding put the point at or past the end
        index = int(np.flatnonzero(weights)[-1])
    return index, point - (float(ends[index - 1]) if index else 0.0)


def _penalize(logits: FloatArray, tokens: Sequence[int] | TokenArray, penalty: float, out: FloatArray) -> FloatArray:
    """Copies ``logits`` to ``out``; those of ``tokens`` are made smaller: divided if positive, else multiplied."""
    out[:] = logits
    seen = np.asarray(tokens, np.int64)
    seen = seen[seen < len(out)]
    values = out[seen]
    out[seen] = np.where(values < 0, values * np.float32(penalty), values / np.float32(penalty))
    return out


def _distribution(row: FloatArray, top: np.float32, params: SamplingParams, out: FloatArray) -> FloatArray:
    """Writes the distribution of logits ``row``, the largest of which is ``top``, to ``out``, which may be ``row``."""
    np.subtract(row, top, out=out)
    with np.errstate(over="ignore", under="ignore"):  # far below the top, infinity is as good as a large number
        raise_two(out, LOG2_E / params.temperature)  # probabilities up to a factor: exactly 1 at the top
    _filter(out, params)
    out /= np.float32(total(out))
    return out


def _filter(weights: FloatArray, params: SamplingParams) -> None:
    """Sets to 0 what top_p and min_p exclude (min_p relates to the top, whose weight is 1)."""
    floor = params.min_p
    if params.top_p < 1:
        floor = max(floor, _nucleus_floor(weights, params.top_p))
    if floor > 0:
        weights *= at_least(weights, np.float32(floor))


def kth_largest(row: FloatArray, k: int) -> np.float32:
    """The k-th largest entry.

    A sample suggests a cut that leaves a few hundred more than k candidates; if it leaves fewer than k, the whole row
    is searched.
    """
    sample = np.sort(row[::_STRIDE])
    rank = k // _STRIDE + 8 + 4 * math.isqrt(k // _STRIDE)
    if rank < len(sample):
        candidates = row[at_least(row, sample[len(sample) - rank])]
        if len(candidates) >= k:
            row = candidates
    return np.float32(np.partition(row, len(row) - k)[len(row) - k])


def _nucleus_floor(weights: FloatArray, top_p: float) -> float:
    """The smallest weight of the nucleus: the fewest, largest weights that together have ``top_p`` of the sum.

    It is a search for a quantile. While there are many candidates, a sample brackets the smallest weight, and the mass
    above the bracket is added up; the remaining candidates are sorted.
    """
    whole = total(weights)
    mass, pool, above, below = top_p * whole, weights, 0.0, 0.0
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


def logits_error(value: np.float32) -> LogitsError:
    """The error for logits whose largest is ``value``, which is no number or infinite."""
    return LogitsError(
        f"the largest logit is {value}: the model overflowed or its weights are damaged; check the bundle with"
        " python -m runtime inspect, or export it with fp32 caches"
    )
