"""Arrays that are used again, because those over a vocabulary are large: 600 KB of float32 for 150,000 tokens.

The owner of an array decides when it is used again. ``Scratch`` has the intermediate results of functions, separately
for each thread. An ``Arena`` has the results of one owner, which takes all of them back at once: a drafter those of its
last draft, an acceptance rule those of its last verdict.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
TokenArray = npt.NDArray[np.int32]


class Scratch(threading.local):
    """One-dimensional arrays of one ``dtype`` for intermediate results: one for each role, in each thread."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self._dtype = dtype
        self._arrays: dict[str, npt.NDArray[Any]] = {}

    def take(self, role: str, size: int) -> npt.NDArray[Any]:
        """The array ``[size]`` of ``role``, contents undefined; valid until this thread takes the same role again."""
        array = self._arrays.get(role)
        if array is None or len(array) < size:
            array = self._arrays[role] = np.empty(size, self._dtype)
        return array[:size]


class Arena:
    """One-dimensional arrays of one owner, which takes all of them back at once. For one thread at a time."""

    def __init__(self) -> None:
        self._arrays: list[npt.NDArray[Any]] = []
        self._taken = 0

    def take(self, size: int, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
        """An array ``[size]``, contents undefined; valid until the next ``reset``."""
        place = self._taken
        if place == len(self._arrays):
            self._arrays.append(np.empty(size, dtype))
        elif len(self._arrays[place]) < size or self._arrays[place].dtype != dtype:
            self._arrays[place] = np.empty(size, dtype)
        self._taken += 1
        return self._arrays[place][:size]

    def copy(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A copy of ``values``; valid until the next ``reset``."""
        copied = self.take(len(values), values.dtype)
        copied[:] = values
        return copied

    def reset(self) -> None:
        """Takes back every array: none of them may be in use."""
        self._taken = 0


_masks = Scratch(np.bool_)


def at_least(values: npt.NDArray[np.float32], floor: float | np.float32) -> npt.NDArray[np.bool_]:
    """Which of ``values`` are ``floor`` or more; valid until this thread's next call."""
    found: npt.NDArray[np.bool_] = _masks.take("at_least", len(values))
    np.greater_equal(values, floor, out=found)
    return found
