"""Exponentials and sums with the same bits on every processor, for computations that decide which token is drawn.

``np.exp`` has another algorithm for each instruction set, and NumPy may add in another order; a last bit can change the
token that is drawn. Here every step is an operation that IEEE 754 defines, in a fixed order.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt

from runtime.arrays import FloatArray, Scratch

Doubles = npt.NDArray[np.float64]
# Places in a row.
Ids = npt.NDArray[np.int64]

_singles, _doubles, _masks = Scratch(np.float32), Scratch(np.float64), Scratch(np.bool_)

LOG2_E = 1.4426950408889634

# Values are added in a table with this many columns.
COLUMNS = 512
# Rows of that table, and entries, that are taken at a time, so that intermediate results stay in the second-level
# cache.
_ROWS = 64
_PIECE = 32768
# More values than this are added up among the zeros of the whole row.
MOST_SCATTERED = 1024
# Adding 1.5 * 2^23 rounds to an integer, which is then in the low bits.
_ROUNDER = np.float32(12582912)
# Powers below 2^-126 are set to 0: they are no normal float32, and processors may flush such numbers to zero.
_LEAST = np.float32(-126)
# 2^r = 1 + r * .. for r in [-1/2, 1/2], with the least maximum error: 1.9e-7 with all roundings.
_POLYNOMIAL = tuple(map(np.float32, (0.00132647366, 0.00967151672, 0.0555073358, 0.240222424, 0.693147004)))


def raise_two(exponents: FloatArray, factor: float) -> None:
    """Replaces every exponent, at most 0, by 2 to the power of ``factor`` times it."""
    for start in range(0, len(exponents), _PIECE):
        _raise_two(exponents[start : start + _PIECE], np.float32(factor))


def _raise_two(x: FloatArray, factor: np.float32) -> None:
    np.multiply(x, factor, x)
    vanishing = None
    if x.min() < _LEAST:
        vanishing = np.less(x, _LEAST, _masks.take("vanishing", len(x)))
        np.copyto(x, _LEAST, where=vanishing)
    whole, power = _singles.take("whole", len(x)), _singles.take("power", len(x))
    np.add(x, _ROUNDER, whole)
    np.subtract(whole, _ROUNDER, power)
    np.subtract(x, power, x)
    bits = whole.view(np.int32)
    np.left_shift(bits, 23, bits)
    np.multiply(x, _POLYNOMIAL[0], power)
    for coefficient in _POLYNOMIAL[1:]:
        np.add(power, coefficient, power)
        np.multiply(power, x, power)
    np.add(power, np.float32(1), x)
    exponent = x.view(np.int32)
    np.add(exponent, bits, exponent)
    if vanishing is not None:
        np.copyto(x, np.float32(0), where=vanishing)


def total(values: npt.NDArray[np.floating[Any]]) -> float:
    """The sum of ``values``, a row of float32 or float64, in float64; 0 if there are none."""
    return float(running_sums(column_sums(values))[-1]) if len(values) else 0.0


def running_sums(values: npt.NDArray[np.floating[Any]]) -> Doubles:
    """The sums of the first 1, 2, .. of ``values``, added one after another in float64."""
    sums: Doubles = np.add.accumulate(values.astype(np.float64))
    return sums


def column_sums(values: npt.NDArray[np.floating[Any]]) -> Doubles:
    """The sums of ``values[c::COLUMNS]`` for every column c, in float64; ``values`` themselves if they fill no row.

    Rows are taken 64 at a time. The second half of them is added to the first (an odd one to the first row) until one
    row is left, which is added to the sums. Values that fill no row are added last.
    """
    rows = len(values) // COLUMNS
    if rows == 0:
        return values.astype(np.float64)
    sums = _row_sums(values[: rows * COLUMNS].reshape(rows, COLUMNS))
    rest = values[rows * COLUMNS :].astype(np.float64)
    sums[: len(rest)] += rest
    return sums


def scattered_total(places: Ids, values: FloatArray, size: int) -> float:
    """``total`` of a row of ``size`` that has ``values`` at the ascending ``places`` and zeros elsewhere; same bits."""
    return float(running_sums(scattered_sums(places, values, size))[-1])


def scattered_sums(places: Ids, values: FloatArray, size: int) -> Doubles:
    """``column_sums`` of a row of ``size`` that has ``values``, none negative, at ``places`` and zeros elsewhere.

    Zeros change no sum, and two values have the same sum in any order. So only columns with three values and more are
    added up as tables.
    """
    if size < COLUMNS or len(places) > MOST_SCATTERED:
        row = _singles.take("scattered", size)
        row.fill(0)
        row[places] = values
        return column_sums(row)
    columns = places % COLUMNS
    sums: Doubles = np.bincount(columns, values, COLUMNS).astype(np.float64, copy=False)
    crowded = np.bincount(columns, minlength=COLUMNS) > 2
    if crowded.any():
        inside = crowded[columns]
        table = np.zeros((size // COLUMNS + 1, np.count_nonzero(crowded)))
        table[places[inside] // COLUMNS, (np.cumsum(crowded) - 1)[columns[inside]]] = values[inside]
        sums[crowded] = _row_sums(table[:-1]) + table[-1]
    return sums


def _row_sums(table: npt.NDArray[np.floating[Any]]) -> Doubles:
    """The sum of the rows of ``table``, in the order of ``column_sums``."""
    sums = np.zeros(table.shape[1])
    for start in range(0, len(table), _ROWS):
        sums += _halved(table[start : start + _ROWS])
    return sums


def _halved(rows: npt.NDArray[np.floating[Any]]) -> Doubles:
    """The sum of ``rows`` as one row; valid until this thread's next call."""
    count = len(rows)
    sums: Doubles = _doubles.take("sums", rows.size).reshape(rows.shape)
    # Converted before: NumPy adds another type through buffers, which are as large again and slower.
    np.copyto(sums, rows)
    while count > 1:
        half = count // 2
        if count % 2:
            sums[0] += sums[count - 1]
        sums[:half] += sums[half : 2 * half]
        count = half
    return cast(Doubles, sums[0])
