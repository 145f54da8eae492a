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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from export.manifest import PocketspecError
from runtime.arguments import as_real, as_whole
from runtime.arrays import FloatArray, Scratch, TokenArray, at_least
from runtime.decoding.allowed_tokens import AllowedTokens
from runtime.decoding.distribution import Distribution
from runtime.decoding.exact_math import LOG2_E, MOST_SCATTERED, Ids, raise_two, scattered_total, total
from runtime.decoding.filters import nucleus_floor, places_of_largest
from runtime.errors import LogitsError

_MASK = (1 << 64) - 1

_floats = Scratch(np.float32)


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
    allowed: AllowedTokens | None = None,
) -> FloatArray:
    """The distribution the next token is drawn from, float32 ``[vocab]``; excluded tokens have exactly 0.

    It is written to ``out`` (None: to a new array) and returned. The other arguments are those of ``distribution``.
    """
    out = np.empty(len(logits), np.float32) if out is None else out
    return distribution(logits, tokens, params, out, allowed).dense(out)


def distribution(
    logits: FloatArray,
    tokens: Sequence[int] | TokenArray,
    params: SamplingParams,
    out: FloatArray,
    allowed: AllowedTokens | None = None,
) -> Distribution:
    """The distribution the next token is drawn from; valid until ``out``, float32 ``[vocab]``, is used again.

    ``logits`` and ``tokens`` are as in ``greedy_token``. ``allowed`` restricts the tokens (None: all), with the same
    bits as if the others' logits were minus infinity. At temperature 0 it is certain of the greedy token. LogitsError
    if the logits are not numbers.
    """
    if params.temperature == 0:
        token = greedy_token(logits if allowed is None else allowed.masked(logits, out), tokens, params)
        return Distribution(len(logits), np.ones(1, np.float32), np.array([token]))
    row = logits
    if params.repetition_penalty != 1.0:
        row = _penalize(logits, tokens, params.repetition_penalty, out)
    if allowed is not None and allowed.few is not None:
        return _among_few(row[allowed.few], allowed.few, params, len(row))
    best = row.argmax()
    if allowed is not None and not (math.isfinite(row[best]) and allowed.allows(int(best))):
        row = allowed.masked(row, out)
        best = row.argmax()
    top = row[best]
    if not math.isfinite(top):
        raise logits_error(top)
    if 0 < params.top_k < len(row):
        kept = places_of_largest(row, params.top_k, allowed)
        if kept is not None:
            return _scattered(row[kept], kept, top, params, len(row), total)
    return _over_all(row, top, params, out, None if allowed is None else allowed.excluded)


def passing_row(size: int) -> FloatArray:
    """A scratch row for ``out``, float32 ``[size]``; valid until this thread takes it again."""
    row: FloatArray = _floats.take("passing", size)
    return row


def draw(probs: npt.NDArray[np.floating[Any]], u: float) -> int:
    """The token at ``u`` in [0, 1) of the cumulative ``probs``, float ``[vocab]``; see ``Distribution.draw``."""
    return Distribution(len(probs), probs).draw(u)


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


def _penalize(logits: FloatArray, tokens: Sequence[int] | TokenArray, penalty: float, out: FloatArray) -> FloatArray:
    """Copies ``logits`` to ``out``; those of ``tokens`` are made smaller: divided if positive, else multiplied."""
    out[:] = logits
    seen = np.asarray(tokens, np.int64)
    seen = seen[seen < len(out)]
    values = out[seen]
    out[seen] = np.where(values < 0, values * np.float32(penalty), values / np.float32(penalty))
    return out


def _among_few(row: FloatArray, few: Ids, params: SamplingParams, size: int) -> Distribution:
    """The distribution over the tokens ``few`` of ``size``, by their logits ``row``, which it changes."""
    top = row.max()
    if not math.isfinite(top):
        raise logits_error(top)
    if 0 < params.top_k < size and params.top_k <= len(row):
        kept = places_of_largest(row, params.top_k)
        if kept is not None:
            return _scattered(row[kept], few[kept], top, params, size, total)
    return _scattered(row, few, top, params, size, lambda weights: scattered_total(few, weights, size))


def _scattered(
    row: FloatArray,
    places: Ids,
    top: np.float32,
    params: SamplingParams,
    size: int,
    add: Callable[[FloatArray], float],
) -> Distribution:
    """The distribution over the tokens ``places`` alone, by their logits ``row``, which it changes.

    ``add`` sums weights as the whole row would, or as the tokens that top_k keeps do.
    """
    _weigh(row, top, params, row)
    floor = _floor(row, params, add)
    if floor > 0:
        row *= at_least(row, np.float32(floor))
    row /= np.float32(add(row))
    return Distribution(size, row, places)


def _over_all(
    row: FloatArray, top: np.float32, params: SamplingParams, out: FloatArray, excluded: Ids | None
) -> Distribution:
    """The distribution over all tokens of logits ``row`` but ``excluded``; ``out`` may be ``row``."""
    _weigh(row, top, params, out, excluded)
    floor = _floor(out, params, total)
    if floor > 0:
        kept = at_least(out, np.float32(floor))
        if np.count_nonzero(kept) <= MOST_SCATTERED:
            places = np.flatnonzero(kept)
            weights = out[places]
            weights /= np.float32(scattered_total(places, weights, len(out)))
            return Distribution(len(out), weights, places)
        out *= kept
    out /= np.float32(total(out))
    return Distribution(len(out), out)


def _weigh(
    row: FloatArray, top: np.float32, params: SamplingParams, out: FloatArray, excluded: Ids | None = None
) -> None:
    """Writes probabilities up to a factor to ``out``: exactly 1 at logit ``top``, exactly 0 for ``excluded`` tokens."""
    with np.errstate(over="ignore", under="ignore"):  # far below the top, infinity is as good as a large number
        np.subtract(row, top, out=out)
        if excluded is not None:
            out[excluded] = 0  # whatever an excluded logit is, its power is a number
        raise_two(out, LOG2_E / params.temperature)
    if excluded is not None:
        out[excluded] = 0


def _floor(weights: FloatArray, params: SamplingParams, add: Callable[[FloatArray], float]) -> float:
    """The least weight that top_p and min_p keep (min_p relates to the top, whose weight is 1)."""
    if params.top_p == 1:
        return params.min_p
    return max(params.min_p, nucleus_floor(weights, add(weights), params.top_p))


def logits_error(value: np.float32) -> LogitsError:
    """The error for logits whose largest is ``value``, which is no number or infinite."""
    return LogitsError(
        f"the largest logit is {value}: the model overflowed or its weights are damaged; check the bundle with"
        " python -m runtime inspect, or export it with fp32 caches"
    )
