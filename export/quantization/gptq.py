"""GPTQ (Frantar et al., 2022): later columns compensate what rounding a column costs the output.

With inputs of second moment H, the squared error of the output is ``(w - q) H (w - q)``. Let ``U^T U`` be the inverse
of H. Columns are rounded in their order; the error of column c over ``U[c, c]``, times row c of U, is subtracted from
the columns that follow. A block's scale and zero point are searched when it is reached, on its weights as changed so
far. Compensation stays within windows of columns, which keeps H and U small. Columns are not reordered by activation,
because MatMulNBits has no order of columns.
"""

from __future__ import annotations

import numpy as np

from export.quantization.blocks import Codes, Quantized, QuantizeError, check_block_size, pack_pairs
from export.quantization.scale_search import Fit, Tile, search_blocks
from export.sources.tensor_source import FloatArray


def quantize_compensated(
    rows: FloatArray, bits: int, block_size: int, symmetric: bool, factors: FloatArray
) -> Quantized:
    """Quantizes ``rows`` ``[rows, columns]`` with ``factors`` ``[columns, window]``.

    Row c of ``factors`` is row c of U from the start of c's window on. The weights' own error is larger than after a
    search; that of the outputs is smaller.
    """
    check_block_size(block_size)
    columns, window = factors.shape
    if window < columns and window % block_size:
        raise QuantizeError(
            f"block size {block_size} does not divide gptq's windows of {window} columns; use 32 or 128"
        )
    blocks = -(-columns // block_size)
    rest = np.zeros((blocks * block_size, len(rows)), np.float32)
    rest[:columns] = rows.T
    codes = np.empty((len(rows), blocks, block_size * bits // 8), np.uint8)
    scales = np.empty((len(rows), blocks), np.float32)
    zeros = np.full((len(rows), blocks), 2 ** (bits - 1), np.float32)
    error = 0.0
    for block in range(blocks):
        first, last = block * block_size, min((block + 1) * block_size, columns)
        start = first // window * window
        upper = factors[first:last, first - start :]
        fit = _fit(rest[first : first + block_size], upper, bits, symmetric)
        signed, errors = _round_columns(rest[first : first + block_size], upper, fit, bits)
        end = min(start + window, columns)
        rest[last:end] -= upper[:, last - first : end - first].T @ errors
        scales[:, block] = fit.scale
        if fit.zero is not None:
            zeros[:, block] = fit.zero
        codes[:, block] = _stored(signed, zeros[:, block], bits)
        error += float(np.square(rows[:, first:last].T - signed[: last - first] * fit.scale).sum(dtype=np.float64))
    zero_points = None if symmetric else zeros.astype(np.uint8)
    if zero_points is not None and bits == 4:
        zero_points = pack_pairs(np.pad(zero_points, ((0, 0), (0, blocks % 2))))
    return Quantized(codes, scales, zero_points, (error, float(np.square(rows).sum(dtype=np.float64))))


def _fit(block: FloatArray, upper: FloatArray, bits: int, symmetric: bool) -> Fit:
    """Scale and zero point of a block ``[block_size, rows]``: a column's error costs the output 1 / U[c, c]^2."""
    cost = np.zeros(len(block), np.float32)
    cost[: len(upper)] = 1 / np.square(np.diagonal(upper))
    weight = np.broadcast_to((cost / cost.mean())[:, None], block.shape)
    return search_blocks(Tile(block, np.ascontiguousarray(weight), bits, symmetric)).rounded_again()


def _round_columns(block: FloatArray, upper: FloatArray, fit: Fit, bits: int) -> tuple[FloatArray, FloatArray]:
    """Signed codes ``[block_size, rows]`` and errors over U's diagonal ``[columns, rows]``; changes ``block``."""
    signed, errors = np.zeros_like(block), np.empty((len(upper), block.shape[1]), np.float32)
    for column in range(len(upper)):
        fit.codes(block[column], bits, signed[column])
        np.subtract(block[column], signed[column] * fit.scale, out=errors[column])
        errors[column] /= upper[column, column]
        block[column + 1 : len(upper)] -= np.outer(upper[column, column + 1 : len(upper)], errors[column])
    return signed, errors


def _stored(signed: FloatArray, zero: FloatArray, bits: int) -> Codes:
    codes = np.ascontiguousarray((signed + zero).astype(np.uint8).T)
    return pack_pairs(codes) if bits == 4 else codes
