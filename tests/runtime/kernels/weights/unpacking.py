"""The inverse of the packed layout, written from its description in ``runtime.kernels.weights.layout``."""

from __future__ import annotations

import numpy as np

from runtime.kernels.weights.layout import PANEL, Codes, MatrixLayout


def portable_rows(rows: np.ndarray, layout: MatrixLayout) -> np.ndarray:
    """The inverse of ``panel_rows`` for a whole matrix: ``[parts * rows, ...]`` without padding."""
    turned = rows.reshape(layout.groups, layout.parts, PANEL, *rows.shape[1:]).swapaxes(0, 1)
    parts = turned.reshape(layout.parts, layout.groups * PANEL, *rows.shape[1:])[:, : layout.rows]
    return parts.reshape(layout.parts * layout.rows, *rows.shape[1:])


def unpack_codes(codes: Codes, bits: int) -> Codes:
    """The inverse of ``pack_codes``: ``[panels * 16, blocks, block_size * bits / 8]``."""
    panels, blocks, size = codes.shape
    lines = codes.reshape(panels, -1, PANEL, 4).swapaxes(1, 2)  # [panel, column, line, byte]
    if bits == 4:  # a byte j has k = 8l + j and k = 8l + 4 + j; two neighbours share a portable byte
        halves = np.concatenate((lines & 15, lines >> 4), -1)
        lines = halves[..., 0::2] | halves[..., 1::2] << 4
    return np.ascontiguousarray(lines).reshape(panels * PANEL, blocks, size // PANEL)


def unpack_scales(scales: np.ndarray) -> np.ndarray:
    """The inverse of ``pack_scales``, as float32."""
    return np.ascontiguousarray(scales.swapaxes(1, 2).reshape(-1, scales.shape[1]).astype(np.float32))


def unpack_zero_points(zero_points: Codes, bits: int) -> Codes:
    """The inverse of ``pack_zero_points``; the spare half of an odd number of int4 blocks is zero."""
    panels, blocks, _ = zero_points.shape
    if bits == 8:
        return np.ascontiguousarray(zero_points.swapaxes(1, 2).reshape(-1, blocks))
    columns = np.concatenate((zero_points & 15, zero_points >> 4), -1)
    rows = np.pad(columns.swapaxes(1, 2).reshape(PANEL * panels, blocks), ((0, 0), (0, blocks % 2)))
    return np.ascontiguousarray(rows[:, 0::2] | rows[:, 1::2] << 4)
