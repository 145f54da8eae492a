"""Random quantized matrices, and the inputs that operators take them as."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.kernels.selftest.numbers import Numbers
from runtime.kernels.selftest.reference import QuantizedMatrix, high_codes
from runtime.kernels.weights.layout import PLANES_TOP


def make_matrix(
    n: int, k: int, bits: int, block: int, *, half: bool, own_zeros: bool, seed: int = 0, planes: int = 1
) -> QuantizedMatrix:
    """A random matrix [n, k]."""
    numbers = Numbers(n, k, bits, block, seed)
    blocks = -(-k // block)
    scales = numbers.uniform(0.5, 2.0, (n, blocks)).astype(np.float16 if half else np.float32)
    zeros = numbers.integers(0, 1 << bits, (n, blocks), np.uint8) if own_zeros else None
    codes = numbers.integers(0, 1 << bits if planes == 1 else PLANES_TOP + 1, (n, k), np.uint8)
    return QuantizedMatrix(codes, scales, zeros, bits, block, planes)


def high_half(matrix: QuantizedMatrix) -> QuantizedMatrix:
    """The int4 matrix that the high plane of ``matrix`` is."""
    return QuantizedMatrix(high_codes(matrix.codes), matrix.scales, None, 4, matrix.block)


def packed(matrices: Sequence[QuantizedMatrix]) -> dict[str, npt.NDArray[Any]]:
    """The inputs of one matrix, or of a gated one: the panels of its two parts in turns."""
    parts = [matrix.packed() for matrix in matrices]
    return {
        name: np.stack([part[name] for part in parts], 1).reshape(-1, *parts[0][name].shape[1:]) for name in parts[0]
    }
