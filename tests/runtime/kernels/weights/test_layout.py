"""The packed layout: exact bytes of small matrices, and round trips of every kind of matrix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.kernels.weights.layout import (
    PANEL,
    PLANES_TOP,
    SCALE_TYPES,
    MatrixLayout,
    pack_codes,
    pack_scales,
    pack_zero_points,
    panel_rows,
    split_planes,
)
from tests.runtime.kernels.weights.unpacking import portable_rows, unpack_codes, unpack_scales, unpack_zero_points

LAYOUTS = st.builds(
    MatrixLayout,
    rows=st.integers(1, 70),
    columns=st.integers(1, 300),
    bits=st.sampled_from([4, 8]),
    block_size=st.sampled_from([32, 64, 128]),
    parts=st.sampled_from([1, 2]),
)


def random_bytes(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Portable codes or zero points of any value."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_a_line_of_four_bit_codes_has_eight_k_of_sixteen_columns() -> None:
    # column c has the code (c + k) % 16 for k
    codes = (np.arange(16)[:, None] + np.arange(32)).astype(np.uint8) % 16
    packed = pack_codes((codes[:, 0::2] | codes[:, 1::2] << 4).reshape(16, 1, 16), 4)
    assert packed.shape == (1, 1, 4 * 64)
    for line, column, j in np.ndindex(4, 16, 4):
        byte = packed[0, 0, 64 * line + 4 * column + j]
        assert byte & 15 == codes[column, 8 * line + j]
        assert byte >> 4 == codes[column, 8 * line + 4 + j]


def test_a_line_of_eight_bit_codes_has_four_k_of_sixteen_columns() -> None:
    codes = (np.arange(16)[:, None] * 16 + np.arange(32)).astype(np.uint8)
    packed = pack_codes(codes.reshape(16, 1, 32), 8)
    assert packed.shape == (1, 1, 8 * 64)
    assert packed[0, 0, :8].tolist() == [0, 1, 2, 3, 16, 17, 18, 19]
    assert packed[0, 0, 64:68].tolist() == [4, 5, 6, 7]


def test_a_byte_of_zero_points_has_columns_eight_apart() -> None:
    # three blocks: the portable row is b0 | b1 << 4, b2
    rows = np.stack([np.array([c | (15 - c) << 4, 7], np.uint8) for c in range(16)])
    packed = pack_zero_points(rows, 4, 3)
    assert packed.shape == (1, 3, 8)
    assert packed[0, 0].tolist() == [j | (j + 8) << 4 for j in range(8)]
    assert packed[0, 1].tolist() == [15 - j | (7 - j) << 4 for j in range(8)]
    assert packed[0, 2].tolist() == [0x77] * 8
    assert pack_zero_points(rows, 8, 2)[0, 1].tolist() == [7] * 16


def test_panels_of_gate_and_up_alternate() -> None:
    gate, up = np.arange(20), np.arange(100, 120)
    rows = panel_rows(np.stack((gate, up)), fill=-1)
    assert rows.tolist() == [
        *range(16), *range(100, 116), *range(16, 20), *[-1] * 12, *range(116, 120), *[-1] * 12
    ]  # fmt: skip


@given(layout=LAYOUTS, seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_packing_loses_nothing(layout: MatrixLayout, seed: int) -> None:
    codes = random_bytes(layout.portable_codes_shape, seed)
    packed = pack_codes(panel_rows(codes.reshape(layout.parts, layout.rows, *codes.shape[1:]), 0x88), layout.bits)
    assert packed.shape == layout.codes_shape
    np.testing.assert_array_equal(portable_rows(unpack_codes(packed, layout.bits), layout), codes)
    zeros = random_bytes(layout.portable_zero_points_shape, seed)
    if layout.bits == 4 and layout.blocks % 2:
        zeros[:, -1] &= 15  # the spare half
    rows = panel_rows(zeros.reshape(layout.parts, layout.rows, -1), 0x88)
    packed = pack_zero_points(rows, layout.bits, layout.blocks)
    assert packed.shape == layout.zero_points_shape
    np.testing.assert_array_equal(portable_rows(unpack_zero_points(packed, layout.bits), layout), zeros)


@pytest.mark.parametrize("scale_type", SCALE_TYPES)
@given(layout=LAYOUTS, seed=st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_scales_come_back(scale_type: str, layout: MatrixLayout, seed: int) -> None:
    scales = np.random.default_rng(seed).normal(size=layout.portable_scales_shape)
    scales = scales.astype(SCALE_TYPES[scale_type]).astype(np.float32)
    packed = pack_scales(panel_rows(scales.reshape(layout.parts, layout.rows, -1), 0), SCALE_TYPES[scale_type])
    assert packed.shape == layout.scales_shape
    np.testing.assert_array_equal(portable_rows(unpack_scales(packed), layout), scales)
    assert not packed[-1, :, (layout.rows - 1) % PANEL + 1 :].any()


def test_two_planes_hold_the_rounded_high_halves_and_what_is_left() -> None:
    codes = np.arange(PLANES_TOP + 1, dtype=np.uint8)
    high, low = (np.stack((half & 15, half >> 4), -1).ravel().astype(int) for half in split_planes(codes))
    np.testing.assert_array_equal(16 * high + low - 8, codes)
    np.testing.assert_array_equal(high, np.floor((codes + 8) / 16))
    assert np.abs(16 * (high - 8) - (codes.astype(int) - 128)).max() == 8  # half of what a step of four bits is
    layout = MatrixLayout(20, 70, 8, 32, 2, planes=2)
    assert layout.codes_shape == (2 * layout.panels, layout.blocks, 256)
    assert layout.high_half.codes_shape == (layout.panels, layout.blocks, 256)
