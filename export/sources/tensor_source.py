"""What every source of weights offers: named tensors, read a few rows at a time."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


class TensorSource(Protocol):
    """Named tensors that can be read a few rows at a time: a checkpoint, random weights, a timing vehicle."""

    def names(self) -> Collection[str]:
        """Every tensor there is."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        ...

    def read(self, name: str, first: int = 0, last: int | None = None) -> FloatArray:
        """Rows ``first`` to ``last`` (exclusive, None: all) of a tensor, as float32."""
        ...


def height_of(shape: tuple[int, ...]) -> int:
    """The rows of a tensor; a single number is one row."""
    return shape[0] if shape else 1


def row_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """The rows and columns of a matrix, or of all matrices of a stack ``[experts, rows, columns]``."""
    return math.prod(shape[:-1]), shape[-1]
