"""The packed layout, version 1: the bytes of block-quantized matrices in ``native.data``.

This is the only description of the layout; ``runtime/kernels/ARITHMETIC.md`` says what is computed from it.

A *panel* is 16 rows of the portable matrix ``[N, K]`` side by side: 16 outputs, the columns of the panel. K is padded
to a multiple of the block size and N to a multiple of 16. Codes in the padding are the zero point, so that it weighs
nothing.

- codes, uint8 ``[panels, blocks, 2 * block_size * bits]``, in lines of 64 bytes, 4 bytes for each of the 16 columns.
  int4: line l of a block holds k = 8l to 8l + 7; byte j of column c has k = 8l + j in its low half and k = 8l + 4 + j
  in its high half. int8: line l holds k = 4l to 4l + 3; byte j of column c is k = 4l + j.
- scales, float16 or float32 ``[panels, blocks, 16]``.
- zero points (asymmetric matrices only), uint8. int4: ``[panels, blocks, 8]``, byte j has that of column j in its low
  half and that of column j + 8 in its high half. int8: ``[panels, blocks, 16]``.

*Two planes* keep the halves of int8 codes apart, so that one copy of the weights is read in two precisions: codes are
uint8 ``[2 * panels, blocks, 8 * block_size]``, the high halves of all panels, then the low ones, each laid out like
int4 codes. They are the halves of ``code + 8``, so the high half alone, as an int4 code with 16 times the scale, is the
int8 code rounded to four bits, not cut (Double Rounding). Codes are at most 247, and there are no zero points.

A weight is ``(code - zero point) * scale``; without zero points the zero point is the middle code, 8 or 128. A gated
matrix has two parts (gate and up, stacked by rows), and their panels alternate: panel 2p has rows 16p and following of
the gate, panel 2p + 1 the same rows of up. Each part is padded separately. The matrices of a stack (the experts of a
layer) follow one another, each as if it were alone.

The functions here work on whole panels; ``packing`` applies them to files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint8]

LAYOUT_VERSION = 1
PANEL = 16
# The largest code of two planes: eight more still fits a byte.
PLANES_TOP = 247
_PLANES_OFFSET = 8
PAGE = 4096  # every tensor begins at a multiple of it; the first page is the file's header
BLOCK_SIZES = (32, 64, 128)
SCALE_TYPES: dict[str, np.dtype[Any]] = {"fp16": np.dtype(np.float16), "fp32": np.dtype(np.float32)}


@dataclass(frozen=True)
class MatrixLayout:
    """The sizes of one matrix: ``parts`` (1, or 2 if gated) of ``rows`` (N) by ``columns`` (K) weights.

    ``stack`` matrices of these sizes are one tensor. ``planes``: 2 if the halves of their codes lie apart.
    """

    rows: int
    columns: int
    bits: int
    block_size: int
    parts: int = 1
    stack: int = 1
    planes: int = 1

    @property
    def blocks(self) -> int:
        """Blocks of a row."""
        return -(-self.columns // self.block_size)

    @property
    def groups(self) -> int:
        """Panels of one part."""
        return -(-self.rows // PANEL)

    @property
    def panels(self) -> int:
        """Panels of all parts of all matrices."""
        return self.stack * self.parts * self.groups

    @property
    def portable_rows(self) -> int:
        """Rows of all parts of all matrices."""
        return self.stack * self.parts * self.rows

    @property
    def middle(self) -> int:
        """The zero point of symmetric matrices."""
        return 1 << (self.bits - 1)

    @property
    def codes_shape(self) -> tuple[int, int, int]:
        """Shape of the packed codes."""
        return self.planes * self.panels, self.blocks, 2 * self.block_size * self.bits // self.planes

    @property
    def high_half(self) -> MatrixLayout:
        """The int4 matrix that the high plane is."""
        return MatrixLayout(self.rows, self.columns, 4, self.block_size, self.parts)

    @property
    def scales_shape(self) -> tuple[int, int, int]:
        """Shape of the packed scales."""
        return self.panels, self.blocks, PANEL

    @property
    def zero_points_shape(self) -> tuple[int, int, int]:
        """Shape of the packed zero points."""
        return self.panels, self.blocks, PANEL * self.bits // 8

    @property
    def portable_codes_shape(self) -> tuple[int, int, int]:
        """Shape of the codes in MatMulNBits."""
        return self.portable_rows, self.blocks, self.block_size * self.bits // 8

    @property
    def portable_scales_shape(self) -> tuple[int, int]:
        """Shape of the scales in MatMulNBits."""
        return self.portable_rows, self.blocks

    @property
    def portable_zero_points_shape(self) -> tuple[int, int]:
        """Shape of the zero points in MatMulNBits."""
        return self.portable_rows, -(-self.blocks * self.bits // 8)


def panel_rows(parts: npt.NDArray[Any], fill: int) -> npt.NDArray[Any]:
    """Rows ``[parts, n, ...]`` of the portable matrix in panel order ``[parts * 16 * ceil(n / 16), ...]``.

    Missing rows are filled with ``fill``. For example, rows 16 to 19 of a gated matrix become 4 rows of the gate, 12 of
    padding, 4 rows of up, 12 of padding.
    """
    if short := -parts.shape[1] % PANEL:
        padding = np.full((len(parts), short, *parts.shape[2:]), fill, parts.dtype)
        parts = np.concatenate((parts, padding), axis=1)
    turned = parts.reshape(len(parts), -1, PANEL, *parts.shape[2:]).swapaxes(0, 1)
    return turned.reshape(-1, *parts.shape[2:])


def pack_codes(codes: Codes, bits: int) -> Codes:
    """Packs codes ``[panels * 16, blocks, block_size * bits / 8]`` as ``[panels, blocks, 2 * block_size * bits]``."""
    rows, blocks, size = codes.shape
    words = np.ascontiguousarray(codes).view("<u4").reshape(rows // PANEL, PANEL, -1)
    lines = np.ascontiguousarray(words.swapaxes(1, 2))
    if bits == 4:
        _swap(_swap(lines, 8, 0x0000FF00), 4, 0x00F000F0)
    return lines.view(np.uint8).reshape(rows // PANEL, blocks, PANEL * size)


def split_planes(codes: Codes) -> tuple[Codes, Codes]:
    """The high and the low halves of codes ``[..., n]`` of eight bits, each as int4 codes ``[..., n / 2]``."""
    shifted = codes + np.uint8(_PLANES_OFFSET)
    pairs = shifted[..., 0::2], shifted[..., 1::2]
    high = (pairs[0] >> np.uint8(4)) | (pairs[1] & np.uint8(0xF0))
    low = (pairs[0] & np.uint8(15)) | (pairs[1] << np.uint8(4))
    return high, low


def pack_scales(scales: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Packs scales ``[panels * 16, blocks]`` as ``[panels, blocks, 16]`` of ``dtype``."""
    panels = scales.reshape(-1, PANEL, scales.shape[1])
    return np.ascontiguousarray(panels.swapaxes(1, 2).astype(dtype))


def pack_zero_points(zero_points: Codes, bits: int, blocks: int) -> Codes:
    """Packs zero points ``[panels * 16, ceil(blocks * bits / 8)]`` as ``[panels, blocks, 2 * bits]``."""
    if bits == 8:
        return np.ascontiguousarray(zero_points.reshape(-1, PANEL, blocks).swapaxes(1, 2))
    pairs = np.stack((zero_points & np.uint8(15), zero_points >> np.uint8(4)), -1)
    panels = pairs.reshape(-1, PANEL, 2 * zero_points.shape[1])[:, :, :blocks].swapaxes(1, 2)
    return np.ascontiguousarray(panels[..., :8] | panels[..., 8:] << np.uint8(4))


def _swap(words: npt.NDArray[np.uint32], distance: int, mask: int) -> npt.NDArray[np.uint32]:
    """Swaps the bits under ``mask`` with those ``distance`` above them, in place.

    The codes k = 0 to 7 of a word become 0 1 4 5 2 3 6 7 by swapping bytes, then 0 4 1 5 2 6 3 7 by half bytes.
    """
    spare = words >> np.uint32(distance)
    spare ^= words
    spare &= np.uint32(mask)
    words ^= spare
    spare <<= np.uint32(distance)
    words ^= spare
    return words
