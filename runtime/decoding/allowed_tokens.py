"""The tokens that a constraint allows, as their ids or as those of the others, whichever are few."""

from __future__ import annotations

import threading
from functools import cached_property

import numpy as np
import numpy.typing as npt

from runtime.arrays import FloatArray
from runtime.decoding.constraint import Bits
from runtime.decoding.exact_math import Ids

Flags = npt.NDArray[np.bool_]

# With fewer bytes of bits than this that allow anything, allowed tokens are listed, else those that are not.
_FEW_BYTES = 256
_EIGHT = np.arange(8)


class AllowedTokens:
    """The tokens below ``size`` that ``bits`` allow; bits may be more or fewer.

    ``few`` are their ids, ascending, if they are few; else None.
    """

    def __init__(self, bits: Bits, size: int) -> None:
        self.bits, self.size = bits, size
        used = bits != 0
        is_few = np.count_nonzero(used) < _FEW_BYTES
        self.few = _listed(bits, np.flatnonzero(used), min(size, 8 * len(bits))) if is_few else None

    @cached_property
    def excluded(self) -> Ids:
        """The ids of all other tokens, ascending."""
        known = min(self.size, 8 * len(self.bits))
        without = _listed(~self.bits, np.flatnonzero(self.bits != 0xFF), known)
        return np.concatenate([without, np.arange(known, self.size)]) if known < self.size else without

    def allows(self, token: int) -> bool:
        """Whether ``token`` is one of them."""
        return token >> 3 < len(self.bits) and bool(self.bits[token >> 3] >> (token & 7) & 1)

    def holds(self, tokens: Ids) -> Flags:
        """Which of ``tokens`` are allowed."""
        inside = np.minimum(tokens >> 3, len(self.bits) - 1)
        found: Flags = (self.bits[inside] >> (tokens & 7) & 1) != 0
        found &= tokens < 8 * len(self.bits)
        return found

    def masked(self, logits: FloatArray, out: FloatArray) -> FloatArray:
        """``logits`` with minus infinity for all other tokens, in ``out``, which may be ``logits`` themselves."""
        if self.few is not None:
            kept = logits[self.few]
            out.fill(-np.inf)
            out[self.few] = kept
            return out
        if out is not logits:
            np.copyto(out, logits)
        out[self.excluded] = -np.inf
        return out


class _Latest(threading.local):
    """The many tokens of every size that this thread was asked for last: within strings of JSON most masks are the
    same."""

    def __init__(self) -> None:
        self.allowed: dict[int, AllowedTokens] = {}


_latest = _Latest()


def allowed_tokens(bits: Bits, size: int) -> AllowedTokens:
    """The tokens below ``size`` that ``bits`` allow."""
    latest = _latest.allowed.get(size)
    if latest is not None and np.array_equal(latest.bits, bits):
        return latest
    allowed = AllowedTokens(bits, size)
    if allowed.few is None:
        _latest.allowed[size] = allowed
    return allowed


def _listed(bits: Bits, used: Ids, known: int) -> Ids:
    """The ids below ``known`` whose bits are set; the bytes ``used`` have them all."""
    hits = np.flatnonzero(np.unpackbits(bits[used], bitorder="little").view(np.bool_))
    ids: Ids = 8 * used[hits >> 3] + (hits & 7)
    return ids[: int(ids.searchsorted(known))]
