"""Random numbers that are the same on every processor and with every NumPy, from integers and exact divisions alone.

NumPy's own generators use logarithms for normal distributions, and may change between versions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# The standard deviation of a sum of four integers below 2^16.
_SPREAD = 37837.0


class Numbers:
    """A stream of numbers determined by ``seed``: SplitMix64 of a counter."""

    def __init__(self, *seed: int) -> None:
        self._state = 0
        for part in seed:
            self._state = int(_mixed(np.array([self._state ^ part], np.uint64))[0])

    def integers(
        self, low: int, high: int, shape: tuple[int, ...], dtype: npt.DTypeLike = np.int64
    ) -> npt.NDArray[Any]:
        """Integers in [low, high); ``high - low`` must be below 2^32."""
        chosen = (self._words(shape) >> np.uint64(32)) % np.uint64(high - low)
        return (low + chosen.astype(np.int64)).astype(dtype)

    def uniform(self, low: float, high: float, shape: tuple[int, ...]) -> Floats:
        """Float32 numbers from ``low`` to ``high``, evenly distributed."""
        share = (self._words(shape) >> np.uint64(40)).astype(np.float64) / 2.0**24
        return (low + (high - low) * share).astype(np.float32)

    def bell(self, shape: tuple[int, ...]) -> Floats:
        """Float32 numbers with mean 0 and deviation 1, nearly normal: each is a sum of four uniform ones."""
        words = self._words(shape)
        total = np.full(shape, -2 * 0xFFFF, np.int64)
        for part in range(4):
            total += (words >> np.uint64(16 * part) & np.uint64(0xFFFF)).astype(np.int64)
        return (total / _SPREAD).astype(np.float32)

    def _words(self, shape: tuple[int, ...]) -> npt.NDArray[np.uint64]:
        count = math.prod(shape)
        words = _mixed(np.arange(count, dtype=np.uint64) + np.uint64(self._state))
        self._state = (self._state + count) % 2**64
        return words.reshape(shape)


def _mixed(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """One step of SplitMix64 (Steele, Lea and Flood 2014) for each of ``words``."""
    words = (words + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ words >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ words >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return words ^ words >> np.uint64(31)
