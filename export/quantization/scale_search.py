"""Finds scales, zero points and codes of blocks: by rounding to a grid, or by searching for a better one.

Symmetric blocks have the middle code as their zero point and a scale of either sign, so that the largest weight,
positive or negative, gets the one code without an opposite (as in llama.cpp's Q4_0). The search gives each of a few
grids its least-squares scale and keeps the best, which is the idea of llama.cpp's k-quants.

Tiles are transposed, ``[block_size, blocks]``: NumPy's inner loops then run over thousands of blocks, and scales
broadcast without a copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.quantization.blocks import Codes, pack_pairs
from export.sources.tensor_source import FloatArray

_SMALLEST = 1e-30  # blocks of smaller weights alone are zeros: the reciprocal of a scale must stay finite

# Steps of the grid per largest weight (symmetric) or per range (asymmetric), for 4 bits. Finer grids than these gained
# less than 0.3% of the error on Gaussian, Laplace and Student weights.
_STEPS = (6.2, 6.6, 7.0, 7.4, 7.8, 8.2, 8.6, 9.0, 9.5, 10.0, 10.6, 11.4)
_RANGE_STEPS = (13.6, 14.2, 14.7, 15.2, 15.7, 16.2, 16.8, 17.5, 18.3, 19.2, 20.2, 21.5)
# With 8 bits there is little to gain: clipping never pays
_STEPS_8 = (126.6, 127.2, 127.7, 128.2, 128.8)
_RANGE_STEPS_8 = (254.2, 254.8, 255.4, 256.0)


@dataclass(frozen=True)
class Fit:
    """The grids of blocks, one entry for each: weight x becomes ``scale * code`` with ``code = rint(x * inverse)``.

    Codes are signed here; the stored code is ``code + zero``, in ``[0, 2 ** bits)``. ``zero`` is None for symmetric
    blocks, whose zero point is the middle code.
    """

    inverse: FloatArray
    scale: FloatArray
    zero: FloatArray | None

    def codes(self, x: FloatArray, bits: int, out: FloatArray) -> FloatArray:
        """The signed codes of ``x`` ``[..., blocks]``, as floats in ``out``."""
        half = 2 ** (bits - 1)
        np.multiply(x, self.inverse, out=out)
        np.rint(out, out=out)
        if self.zero is None:
            return np.clip(out, -half, half - 1, out=out)
        # clipping between arrays is slow: shift, clip between numbers, shift back
        np.add(out, self.zero, out=out)
        np.clip(out, 0, 2 * half - 1, out=out)
        return np.subtract(out, self.zero, out=out)

    def rounded_again(self) -> Fit:
        """The same grid with codes rounded for its own scale."""
        with np.errstate(divide="ignore"):
            inverse = np.where(self.scale == 0, np.float32(0), 1 / self.scale).astype(np.float32)
        return Fit(inverse, self.scale, self.zero)

    def where(self, condition: npt.NDArray[np.bool_], other: Fit) -> Fit:
        """This fit where ``condition`` ``[blocks]`` holds, the other elsewhere."""
        zero = None if self.zero is None or other.zero is None else np.where(condition, self.zero, other.zero)
        inverse = np.where(condition, self.inverse, other.inverse)
        return Fit(inverse, np.where(condition, self.scale, other.scale), zero)


class Tile:
    """A tile of blocks, transposed, that fits a processor's cache, with buffers that all candidate grids reuse."""

    def __init__(self, x: FloatArray, weight: FloatArray | None, bits: int, symmetric: bool) -> None:
        self.x, self.weight, self.bits, self.symmetric = x, weight, bits, symmetric
        self._half = 2 ** (bits - 1)
        self._codes, self._rest = np.empty_like(x), np.empty_like(x)
        self._weighted = x if weight is None else np.multiply(x, weight)
        top, bottom = x.max(axis=0), x.min(axis=0)
        if symmetric:
            self.span = np.where(top > -bottom, top, bottom)  # the weight of largest magnitude, with its sign
        else:
            self.bottom = np.minimum(bottom, 0)
            self.span = np.maximum(top, 0) - self.bottom
        self.span[np.abs(self.span) < _SMALLEST] = 0
        with np.errstate(divide="ignore"):
            self._reciprocal = np.where(self.span == 0, np.float32(0), 1 / self.span).astype(np.float32)

    def fit(self, steps: float) -> Fit:
        """The grid that spans the blocks in ``steps`` steps; if negative, the largest weight has a negative code."""
        inverse = np.float32(steps) * self._reciprocal
        scale = storable(self.span / np.float32(steps))
        if self.symmetric:
            return Fit(inverse, scale, None)
        levels = 2 * self._half - 1
        # if the range has more steps than there are codes, both ends are clipped alike
        zero = np.clip(np.rint(-self.bottom * inverse - np.float32((steps - levels) / 2)), 0, levels)
        return Fit(inverse, scale, zero)

    def codes(self, fit: Fit) -> FloatArray:
        """The signed codes ``[block_size, blocks]`` as floats, in a buffer that the next call overwrites."""
        return fit.codes(self.x, self.bits, self._codes)

    def least_squares(self, fit: Fit) -> tuple[FloatArray, FloatArray]:
        """``sum(w x q)`` and ``sum(w q q)`` per block: their quotient is the best scale for the codes q of a fit."""
        codes = self.codes(fit)
        along = np.einsum("ij,ij->j", self._weighted, codes)
        if self.weight is None:
            return along, np.einsum("ij,ij->j", codes, codes)
        return along, np.einsum("ij,ij,ij->j", self.weight, codes, codes)

    def rescaled(self, fit: Fit) -> Fit:
        """The fit with its least-squares scales."""
        along, square = self.least_squares(fit)
        return Fit(fit.inverse, storable(_divided(along, square)), fit.zero)

    def loss(self, fit: Fit, weighted: bool = True) -> FloatArray:
        """Squared error of every block, ``[blocks]``. An exact fit has exactly 0."""
        rest = np.multiply(self.codes(fit), fit.scale, out=self._rest)
        np.subtract(self.x, rest, out=rest)
        if weighted and self.weight is not None:
            return np.asarray(np.einsum("ij,ij,ij->j", self.weight, rest, rest))
        return np.asarray(np.einsum("ij,ij->j", rest, rest))

    def packed(self, fit: Fit) -> Codes:
        """The stored codes, ``[blocks, block_size * bits / 8]``; the first of a pair is the lower half of a byte."""
        zero = self._half if fit.zero is None else fit.zero
        codes = np.add(self.codes(fit), zero, out=self._codes).astype(np.uint8)
        if self.bits == 4:
            return pack_pairs(codes.T)
        return np.ascontiguousarray(codes.T)


def round_blocks(tile: Tile) -> Fit:
    """The grid of the extremes; for ternary blocks (0 and one magnitude), the grid that represents them exactly."""
    size = np.abs(tile.x)
    ternary = ((size == 0) | (size == size.max(axis=0))).all(axis=0)
    levels = 2**tile.bits
    if tile.symmetric:
        return tile.fit(levels // 4).where(ternary, tile.fit(-levels // 2))
    return tile.fit(levels // 2).where(ternary, tile.fit(levels - 1))


def search_blocks(tile: Tile) -> Fit:
    """The fit of least loss among a grid with least-squares scales and the grids that can be exact."""
    if tile.symmetric:
        grid = [-steps for steps in (_STEPS if tile.bits == 4 else _STEPS_8)]
    else:
        grid = list(_RANGE_STEPS if tile.bits == 4 else _RANGE_STEPS_8)
    fits = [tile.fit(steps) for steps in grid]
    along, square = (np.stack(part) for part in zip(*map(tile.least_squares, fits), strict=True))
    chosen = np.argmax(along * _divided(along, square), axis=0)
    best = fits[0]
    for number, fit in enumerate(fits[1:], start=1):
        best = fit.where(chosen == number, best)
    best = tile.rescaled(best)
    return _least(tile, [tile.rescaled(best.rounded_again()), best, round_blocks(tile), *_exact(tile)])


def _exact(tile: Tile) -> Iterator[Fit]:
    """The grids of every whole number of steps: a block of 4-bit codes times a scale lies on one of them.

    Fewer steps than half of what there is are covered by an even multiple.
    """
    half, fine = (4, 2 ** (tile.bits - 4)) if tile.symmetric else (8, 2 ** (tile.bits - 4))
    for steps in range(half, 2 * half):
        yield tile.fit(steps * fine)


def _least(tile: Tile, fits: Iterable[Fit]) -> Fit:
    """Block by block the fit with the least loss; the first of equals."""
    iterator = iter(fits)
    best = next(iterator)
    loss = tile.loss(best)
    for fit in iterator:
        other = tile.loss(fit)
        keep = loss <= other
        best, loss = best.where(keep, fit), np.minimum(loss, other)
    return best


def _divided(along: FloatArray, square: FloatArray) -> FloatArray:
    """``along / square``, 0 where all codes are 0."""
    return np.divide(along, square, out=np.zeros_like(along), where=square > 0)


def storable(scale: FloatArray) -> FloatArray:
    """Scales rounded to values of float16 within its normal range; others are unchanged.

    So the native kernels' file can have scales of half the bytes for the same model. The rounding changes a scale by
    2 ** -11 at most, far less than codes of 4 or 8 bits lose.
    """
    limits = np.finfo(np.float16)
    size = np.abs(scale)
    normal = (size >= limits.smallest_normal) & (size <= limits.max)
    return np.where(normal, np.clip(scale, limits.min, limits.max).astype(np.float16).astype(np.float32), scale)


def transposed(rows: FloatArray, block_size: int) -> FloatArray:
    """Rows ``[n, columns]`` as blocks ``[block_size, n * blocks]``, the last block of a row padded with zeros."""
    if short := -rows.shape[1] % block_size:
        rows = np.pad(rows, ((0, 0), (0, short)))
    return np.ascontiguousarray(rows.reshape(-1, block_size).T)
