"""The tokens that a constraint allows, as their ids or as those of the others, whichever are few."""

from __future__ import annotations

import threading

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

    ``few`` are their ids, ascending, if they are few; else None, and ``excluded`` are all other ids.
    """

    def __init__(self, bits: Bits, size: int) -> None:
        self.bits, self.size = bits, size
        used, known = np.flatnonzero(bits), min(size, 8 * len(bits))
        self.few: Ids | None = None
        self.excluded: Ids = np.empty(0, np.int64)
        if len(used) < _FEW_BYTES:
            self.few = _listed(bits, used, known)
        else:
            without = _listed(~bits, np.flatnonzero(bits != 0xFF), known)
            self.excluded = np.concatenate([without, np.arange(known, size)]) if known < size else without

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
    """The tokens that this thread was asked for last: within a string of JSON most masks are the same."""

    allowed: AllowedTokens | None = None


_latest = _Latest()


def allowed_tokens(bits: Bits, size: int) -> AllowedTokens:
    """The tokens below ``size`` that ``bits`` allow."""
    latest = _latest.allowed
    if latest is None or latest.size != size or not np.array_equal(latest.bits, bits):
        latest = _latest.allowed = AllowedTokens(bits, size)
    return latest


def _listed(bits: Bits, used: Ids, known: int) -> Ids:
    """The ids below ``known`` whose bits are set; the bytes ``used`` have them all."""
    hits = np.flatnonzero(np.unpackbits(bits[used], bitorder="little"))
    ids: Ids = 8 * used[hits >> 3] + (hits & 7)
    return ids[: int(ids.searchsorted(known))]
