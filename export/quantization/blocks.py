"""The stored form of a block-quantized matrix: what MatMulNBits and GatherBlockQuantized of ONNX Runtime read.

A row is cut into blocks; a block keeps one integer code per weight and one scale, so a weight is
``scale * (code - zero point)``. Shapes and types are those of ``MatrixRecipe``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.manifest import PocketspecError
from export.sources.tensor_source import FloatArray

Codes = npt.NDArray[np.uint8]


class QuantizeError(PocketspecError, ValueError):
    """A block size or method that is not supported, or weights that are not finite."""


@dataclass(frozen=True)
class Quantized:
    """Codes and scales as ``MatrixRecipe`` describes them; ``error`` is the sum of squared errors and of squares."""

    codes: Codes
    scales: FloatArray
    zero_points: Codes | None
    error: tuple[float, float]


def dequantize(codes: Codes, scales: FloatArray, zero_points: Codes | None, bits: int) -> FloatArray:
    """The weights that stored codes stand for, float32 ``[rows, blocks * block_size]``, padding included.

    ``codes``, ``scales`` and ``zero_points`` as in ``MatrixRecipe``, of any number of rows.
    """
    values = (codes if bits == 8 else unpack_pairs(codes)).astype(np.float32)
    rows, blocks, _ = values.shape
    if zero_points is None:
        values -= 2 ** (bits - 1)
    else:
        values -= (zero_points if bits == 8 else unpack_pairs(zero_points))[:, :blocks, None]
    values *= scales[..., None]
    return values.reshape(rows, -1)


def check_block_size(block_size: int) -> None:
    """Raises QuantizeError unless MatMulNBits takes blocks of that size: a power of two from 16 on."""
    if block_size < 16 or block_size & (block_size - 1):
        raise QuantizeError(f"block size {block_size} is not a power of two from 16 on; use 32 or 128")


def pack_pairs(codes: Codes) -> Codes:
    """Pairs of 4-bit codes of the last axis as bytes, the first in the lower half: ``[..., n]`` to ``[..., n / 2]``."""
    return np.bitwise_or(codes[..., 0::2], np.left_shift(codes[..., 1::2], np.uint8(4)))


def unpack_pairs(codes: Codes) -> Codes:
    """The inverse of ``pack_pairs``."""
    return np.stack((codes & 15, codes >> 4), axis=-1).reshape(*codes.shape[:-1], -1)
