"""The arithmetic of the native operators in plain, slow NumPy, for the self-test and the tests.

``runtime/kernels/ARITHMETIC.md`` is the specification; functions here name its steps by their numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

COLUMNS = 16
# A block whose largest magnitude is below this counts as zeros.
SMALLEST = np.float32(1e-30)
_POLYNOMIAL = (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)


@dataclass(frozen=True)
class QuantizedMatrix:
    """A quantized weight: uint8 ``codes`` [N, K]; ``scales`` and ``zeros`` [N, blocks], no zeros: the middle code.

    ``planes``: 2 if the halves of its codes lie apart.
    """

    codes: Bytes
    scales: npt.NDArray[Any]
    zeros: Bytes | None
    bits: int
    block: int
    planes: int = 1

    @property
    def middle(self) -> int:
        """The zero point of a symmetric matrix: 8 or 128."""
        return 1 << (self.bits - 1)

    def packed(self) -> dict[str, npt.NDArray[Any]]:
        """The inputs of an operator: ``codes``, ``scales`` and, if the matrix has zero points, ``zero_points``."""
        blocks = self.scales.shape[1]
        panels = -(-self.codes.shape[0] // COLUMNS)
        rows = panels * COLUMNS
        zeros = np.full((rows, blocks), self.middle, np.uint8)
        if self.zeros is not None:
            zeros[: len(self.zeros)] = self.zeros
        codes = np.repeat(zeros, self.block, axis=1)
        codes[: self.codes.shape[0], : self.codes.shape[1]] = self.codes
        scales = np.zeros((rows, blocks), self.scales.dtype)
        scales[: len(self.scales)] = self.scales
        planes = [codes] if self.planes == 1 else [high_codes(codes), codes + np.uint8(8) & np.uint8(15)]
        # [panel, column, line, half, j] -> [panel, line, column, j, half]; a line of int8 codes has one half.
        halves = 8 * self.planes // self.bits
        lines = [plane.reshape(panels, COLUMNS, -1, halves, 4).transpose(0, 2, 1, 4, 3) for plane in planes]
        packed = {
            "codes": np.concatenate([_nibbles(part).reshape(panels, blocks, -1) for part in lines]),
            "scales": np.ascontiguousarray(scales.reshape(panels, COLUMNS, blocks).transpose(0, 2, 1)),
        }
        if self.zeros is not None:
            by_block = zeros.reshape(panels, halves, COLUMNS // halves, blocks).transpose(0, 3, 2, 1)
            packed["zero_points"] = _nibbles(by_block)
        return packed

    def products(self, codes: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        """The exact sums of step 3, for codes of activations [rows, K]: int64 [rows, blocks, N]."""
        k = codes.shape[1]
        blocks = self.scales.shape[1]
        zeros = np.full(self.scales.shape, self.middle) if self.zeros is None else self.zeros
        weights = self.codes.astype(np.int64) - np.repeat(zeros.astype(np.int64), self.block, axis=1)[:, :k]
        padding = ((0, 0), (0, blocks * self.block - k))
        cut = (-1, blocks, self.block)
        left, right = np.pad(codes.astype(np.int64), padding).reshape(cut), np.pad(weights, padding).reshape(cut)
        products: npt.NDArray[np.int64] = np.einsum("rbk,nbk->rbn", left, right)
        return products

    def row(self, index: int, factor: float) -> Floats:
        """Weights [K] of one output times ``factor``, as in GatherPanel."""
        zeros = np.full(self.scales.shape, self.middle) if self.zeros is None else self.zeros
        zero = np.repeat(zeros[index].astype(np.float32), self.block)[: self.codes.shape[1]]
        scale = np.repeat(self.scales[index].astype(np.float32), self.block)[: self.codes.shape[1]]
        weights: Floats = (self.codes[index].astype(np.float32) - zero) * scale * np.float32(factor)
        return weights


def high_codes(codes: Bytes) -> Bytes:
    """The int4 codes that the high plane of int8 ``codes`` holds."""
    return codes + np.uint8(8) >> np.uint8(4)


def fma(a: Any, b: Any, c: Any) -> Floats:
    """``a * b + c`` in float32, rounded once.

    The product is exact in float64. The float64 sum is rounded to odd: of the two neighbours of an inexact sum, the one
    whose last bit is odd. Rounding that to float32 gives the same as rounding the exact sum.
    """
    product = np.asarray(a, np.float64) * np.asarray(b, np.float64)
    with np.errstate(invalid="ignore"):
        total = product + np.asarray(c, np.float64)
        part = total - product
        error = (product - (total - part)) + (np.asarray(c, np.float64) - part)
    inexact = np.isfinite(error) & (error != 0) & (total.view(np.int64) & 1 == 0)
    total = np.where(inexact, np.nextafter(total, np.copysign(np.inf, error)), total)
    return total.astype(np.float32)


def dot(a: Floats, b: Floats) -> Floats:
    """The sum of step 1 over products of rows [rows, K], each with its own: [rows, 1]."""
    rows, k = a.shape
    left, right = (np.pad(x, ((0, 0), (0, -k % 32))).reshape(rows, -1, 32) for x in (a, b))
    lanes = np.zeros((rows, 32), np.float32)
    for part in range(left.shape[1]):
        lanes = fma(left[:, part], right[:, part], lanes)
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes


def sum_of_squares(x: Floats) -> Floats:
    """The sum of step 1 for rows [rows, K]: [rows, 1]."""
    return dot(x, x)


def norm(x: Floats, gain: Floats, epsilon: float) -> Floats:
    """Step 1 for rows [rows, K]."""
    inverse = np.float32(1) / np.sqrt(sum_of_squares(x) / np.float32(x.shape[1]) + np.float32(epsilon))
    with np.errstate(invalid="ignore"):  # infinities become NaN, as specified
        normed: Floats = x * inverse * gain
    return normed


def quantize(x: Floats, block: int) -> tuple[npt.NDArray[np.int32], Floats]:
    """Step 2: codes [rows, K] and scales [rows, blocks]."""
    rows, k = x.shape
    num_blocks = -(-k // block)
    blocks = np.pad(x, ((0, 0), (0, num_blocks * block - k))).reshape(rows, num_blocks, block)
    top = np.abs(blocks).max(-1)
    finite = np.isfinite(top)
    counts = finite & (top >= SMALLEST)
    safe = np.where(counts, top, np.float32(1))
    factor = np.where(counts, np.float32(127) / safe, np.float32(0))
    scaled = np.where(counts[..., None], blocks, np.float32(0)) * factor[..., None]
    scales = np.where(finite, np.where(counts, safe / np.float32(127), np.float32(0)), np.float32(np.nan))
    return np.rint(scaled).astype(np.int32).reshape(rows, num_blocks * block)[:, :k], scales


def multiply(x: Floats, matrix: QuantizedMatrix, scale: float = 1.0) -> Floats:
    """Steps 2 and 3: rows [rows, K] give [rows, N]."""
    codes, scales = quantize(x, matrix.block)
    scales = scales * np.float32(scale)
    products = matrix.products(codes)
    total = np.zeros((len(x), len(matrix.codes)), np.float32)
    for block in range(products.shape[1]):
        factor = matrix.scales[:, block].astype(np.float32) * scales[:, block, None]
        total = fma(products[:, block].astype(np.float32), factor, total)
    return total


def matmul_panel(
    x: Floats,
    matrices: Sequence[QuantizedMatrix],
    *,
    bias: Floats | None = None,
    gain: Floats | None = None,
    residual: Floats | None = None,
    activation: str | None = None,
    epsilon: float = 0.0,
    scale: float = 1.0,
) -> Floats:
    """MatMulPanel for rows [rows, K]: one matrix, or gate and up with an ``activation`` between them."""
    x = x if gain is None else norm(x, gain, epsilon)
    sums = [multiply(x, matrix, scale) for matrix in matrices]
    if bias is not None:
        sums = [part + own for part, own in zip(sums, np.split(bias, len(matrices)), strict=True)]
    y = sums[0] if activation is None else activate(sums[0], activation) * sums[1]
    return y if residual is None else y + residual


def activate(v: Floats, activation: str) -> Floats:
    """The activation of step 4: "silu" or "gelu_tanh"."""
    exponent = -v
    if activation == "gelu_tanh":
        exponent = fma(np.float32(0.044715) * v * v, v, v) * np.float32(0.7978845608) * np.float32(-2)
    return v / (np.float32(1) + exponential(exponent))


def exponential(v: Floats) -> Floats:
    """``exp`` as specified."""
    v = np.clip(v, np.float32(-87), np.float32(88))
    n = np.rint(v * np.float32(1.44269504))
    f = fma(n, np.float32(2.12194440e-4), fma(n, np.float32(-0.693359375), v))
    p = np.full_like(f, np.float32(1.9875691500e-4))
    for coefficient in _POLYNOMIAL:
        p = fma(p, f, np.float32(coefficient))
    p = fma(p * f, f, f + np.float32(1))
    result: Floats = p * _power_of_two(n)
    return result


def _power_of_two(n: Floats) -> Floats:
    """2 to the power of integers ``n`` from -126 to 127, made of bits: NumPy's AVX512 ``exp2(127)`` is not 2 ** 127.

    A NaN in ``n`` gives 1; the result is multiplied by a NaN then.
    """
    biased = np.where(np.isnan(n), np.float32(0), n).astype(np.int32) + 127
    return (biased << 23).view(np.float32)


def _nibbles(pairs: npt.NDArray[np.uint8]) -> Bytes:
    """Bytes from codes [..., 2], the first one in the low half; codes [..., 1] are bytes already."""
    if pairs.shape[-1] == 1:
        return np.ascontiguousarray(pairs[..., 0])
    return np.ascontiguousarray(pairs[..., 0] | pairs[..., 1] << 4)
