"""Arrays that are used again and again: one that nobody refers to any more is handed out the next time.

Distributions over a vocabulary of 150,000 take 600 KB each, and a step makes several. How long each lives is decided
by whoever holds it (a draft keeps those its nodes were drawn from), so references are counted, not moments.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
TokenArray = npt.NDArray[np.int32]


class ReusedArrays:
    """One-dimensional arrays of one ``dtype``, contents undefined. May be used from several threads."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self._dtype = dtype
        self._arrays: list[npt.NDArray[Any]] = []
        self._lock = threading.Lock()

    def take(self, size: int) -> npt.NDArray[Any]:
        """An array ``[size]`` that nobody else has. It comes back when the last reference to it goes."""
        with self._lock:
            arrays = self._arrays
            for place in range(len(arrays)):
                if len(arrays[place]) >= size and _references(arrays, place) == _FREE:
                    return arrays[place][:size]
            # Smaller ones that are free are of a vocabulary that is no longer in use, or soon made anew.
            self._arrays = [arrays[place] for place in range(len(arrays)) if _references(arrays, place) != _FREE]
            self._arrays.append(np.empty(size, self._dtype))
            return self._arrays[-1][:size]


def _references(arrays: list[npt.NDArray[Any]], place: int) -> int:
    """References to an array; a view counts for the array it shows."""
    return sys.getrefcount(arrays[place])


# What is counted when the list alone holds the array, which differs between versions of Python.
_FREE = _references([np.empty(0)], 0)

masks = ReusedArrays(np.bool_)


def at_least(values: npt.NDArray[np.float32], floor: float | np.float32) -> npt.NDArray[np.bool_]:
    """Which of ``values`` are ``floor`` or more, in an array that is used again."""
    found: npt.NDArray[np.bool_] = masks.take(len(values))
    np.greater_equal(values, floor, out=found)
    return found
