"""The specification in NumPy: close to plain arithmetic, exact where it says so, and in the layout that is packed."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.kernels.selftest import attention_reference as reference_attention
from runtime.kernels.selftest import reference
from runtime.kernels.selftest.attention_reference import ReferenceAttention
from runtime.kernels.selftest.cases import cases
from runtime.kernels.selftest.matrices import make_matrix, packed
from runtime.kernels.selftest.onnx_bytes import GraphNode, ValueType, encode_model
from runtime.kernels.selftest.reference import fma
from runtime.kernels.weights import layout
from tests.runtime.kernels.attention_op import mixing

FLOATS = st.floats(width=32, min_value=-(2.0**40), max_value=2.0**40)


def nearest(value: Fraction) -> np.float32:
    """The float32 nearest to ``value``, the even one of two."""
    guess = np.float32(float(value))
    near = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    return min(near, key=lambda each: (abs(Fraction(float(each)) - value), int(np.float32(each).view(np.uint32)) & 1))


@given(FLOATS, FLOATS, FLOATS)
def test_fma_rounds_once(a: float, b: float, c: float) -> None:
    assert fma(a, b, c) == nearest(Fraction(a) * Fraction(b) + Fraction(c))


@given(st.integers(2**11, 2**12), st.integers(2**11, 2**12), st.integers(-60, -30), st.sampled_from([-1, 1]))
def test_fma_rounds_once_beside_the_middle_of_two_floats(a: int, b: int, exponent: int, sign: int) -> None:
    """An odd product of 25 bits is such a middle; what decides is lost if float64 rounds first."""
    a, b = 2 * a + 1, 2 * b + 1
    c = sign * 2.0**exponent
    assert fma(a, b, c) == nearest(Fraction(a) * Fraction(b) + Fraction(c))
    assert fma(97, 172961, 2.0**-40) == 2**24 + 2
    assert fma(97, 172961, -(2.0**-40)) == 2**24


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("own_zeros", [False, True])
def test_matrices_lie_as_the_packer_lays_them(bits: int, own_zeros: bool) -> None:
    matrix = make_matrix(48, 128, bits, 32, half=True, own_zeros=own_zeros)
    portable = matrix.codes if bits == 8 else matrix.codes[:, 0::2] | matrix.codes[:, 1::2] << 4
    ours = matrix.packed()
    assert np.array_equal(ours["codes"], layout.pack_codes(portable.reshape(48, 4, -1), bits))
    assert np.array_equal(ours["scales"], layout.pack_scales(matrix.scales, np.float16))
    if matrix.zeros is not None:
        zeros = matrix.zeros if bits == 8 else matrix.zeros[:, 0::2] | matrix.zeros[:, 1::2] << 4
        assert np.array_equal(ours["zero_points"], layout.pack_zero_points(zeros, bits, 4))


def test_gate_and_up_take_turns() -> None:
    pair = [make_matrix(32, 64, 4, 32, half=False, own_zeros=False, seed=seed) for seed in (1, 2)]
    both, (gate, up) = packed(pair), (matrix.packed() for matrix in pair)
    for name in ("codes", "scales"):
        assert np.array_equal(both[name][0::2], gate[name])
        assert np.array_equal(both[name][1::2], up[name])


@pytest.mark.parametrize(
    ("bits", "block", "own_zeros"), [(4, 32, False), (4, 128, True), (8, 64, True), (8, 32, False)]
)
def test_a_product_is_near_the_one_in_float64(bits: int, block: int, own_zeros: bool) -> None:
    """Quantizing activations to int8 is all that is lost: less than a 127th of a block's largest."""
    matrix = make_matrix(20, 300, bits, block, half=False, own_zeros=own_zeros)
    weights = np.stack([matrix.row(index, 1.0) for index in range(20)]).astype(np.float64)
    x = np.random.default_rng(0).standard_normal((5, 300)).astype(np.float32)
    exact = x @ weights.T
    found = reference.matmul_panel(x, [matrix])
    assert np.abs(found - exact).max() < 0.02 * np.abs(exact).max()
    codes, scales = reference.quantize(x, block)
    rounded = codes * np.repeat(scales, block, axis=1)[:, :300].astype(np.float64)
    np.testing.assert_allclose(found, rounded @ weights.T, rtol=1e-4, atol=1e-4)


def test_norm_bias_activation_and_residual_are_what_they_are_called() -> None:
    rng = np.random.default_rng(0)
    gate, up = (make_matrix(20, 64, 8, 32, half=False, own_zeros=False, seed=seed) for seed in (1, 2))
    x, gain, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 64), 64, 40))
    residual = rng.standard_normal((4, 20)).astype(np.float32)
    normed = (x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-6) * gain).astype(np.float32)
    np.testing.assert_allclose(reference.norm(x, gain, 1e-6), normed, rtol=1e-5)
    for activation, act in (("silu", _silu), ("gelu_tanh", _gelu)):
        parts = [reference.multiply(normed, matrix) + part for matrix, part in ((gate, bias[:20]), (up, bias[20:]))]
        expected = act(parts[0].astype(np.float64) / 300) * parts[1] + residual
        # Small gates, where activations are not simply 0 or the value.
        small = [replace(matrix, scales=matrix.scales / scale) for matrix, scale in ((gate, 300), (up, 1))]
        scaled = np.concatenate([bias[:20] / 300, bias[20:]]).astype(np.float32)
        options: dict[str, Any] = {"bias": scaled, "gain": gain, "residual": residual, "activation": activation}
        found = reference.matmul_panel(x, small, epsilon=1e-6, **options)
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-2)


def _silu(v: Any) -> Any:
    return v / (1 + np.exp(-v))


def _gelu(v: Any) -> Any:
    return 0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)))


def test_exp_is_good_to_two_last_places_and_keeps_nan() -> None:
    v = np.linspace(-87, 88, 100_001, dtype=np.float32)
    exact = np.exp(v.astype(np.float64))
    assert np.abs(reference.exponential(v) / exact - 1).max() < 2**-22
    assert np.isnan(reference.exponential(np.float32([np.nan])))


def test_blocks_that_cannot_be_quantized_give_zeros_or_nan() -> None:
    x = np.zeros((4, 64), np.float32)
    x[1, 3], x[2, 40], x[3, 5] = np.inf, np.nan, 1e-31
    codes, scales = reference.quantize(x, 32)
    assert not codes.any()
    assert np.array_equal(np.isnan(scales), [[False, False], [True, False], [False, True], [False, False]])
    assert not np.nan_to_num(scales).any()


@pytest.mark.parametrize("kv_type", ["float32", "float16", "int8", "int4"])
def test_attention_is_near_softmax_in_float64(kv_type: str) -> None:
    rng = np.random.default_rng(0)
    angles = np.outer(np.arange(16), 1 / 10 ** np.arange(8))
    cos, sin = (part(angles).astype(np.float32) for part in (np.cos, np.sin))
    attention = ReferenceAttention(4, 2, 16, 0.25, kv_type, window=5, softcap=9.0, cos=cos, sin=sin)
    qkv = rng.standard_normal((9, 8 * 16)).astype(np.float32)
    empty = attention.store(np.zeros((2, 0, 16), np.float32))
    y, keys, values = attention.run(qkv, np.arange(9), empty, empty, None)
    split = qkv.reshape(9, 8, 16).astype(np.float64)
    rotated = split.copy()
    rotated[..., :8] = split[..., :8] * cos[:9, None] - split[..., 8:] * sin[:9, None]
    rotated[..., 8:] = split[..., 8:] * cos[:9, None] + split[..., :8] * sin[:9, None]
    for head in range(4):
        own = head // 2
        scores = 9.0 * np.tanh(rotated[:, head] @ rotated[:, 4 + own].T * 0.25 / 9.0)
        distance = np.arange(9)[:, None] - np.arange(9)
        weights = np.exp(np.where((distance >= 0) & (distance < 5), scores, -np.inf))
        exact = weights / weights.sum(1, keepdims=True) @ split[:, 6 + own]
        tolerance = {"float32": 1e-5, "float16": 3e-3, "int8": 5e-2, "int4": 0.6}[kv_type]
        np.testing.assert_allclose(y.reshape(9, 4, 16)[:, head], exact, atol=tolerance)
    assert keys.shape == values.shape == (2, 9, {"int8": 20, "int4": 12}.get(kv_type, 16))


@pytest.mark.parametrize("size", [2, 18, 24, 64, 80])
def test_mixing_is_hadamard_in_blocks(size: int) -> None:
    mixed = reference_attention.mix(np.eye(size, dtype=np.float32))
    np.testing.assert_array_equal(mixed, mixing(size))
    np.testing.assert_array_equal(mixed @ mixed, (size & -size) * np.eye(size))


def test_a_row_of_four_bits_byte_by_byte() -> None:
    """Mixed, the first row is 8, -4, 1, -2: codes -8 and 4 of scale -1, then 4 and -8 of scale 0.25."""
    rows = np.float32([[0.75, 3.75, 1.25, 2.25], [0, 0, 0, 0], [1, np.inf, 0, 0]])
    attention = ReferenceAttention(1, 1, 4, 1.0, "int4")
    stored = attention.store(rows)
    assert stored.dtype == np.uint8
    assert stored[0].tobytes() == bytes([0xC0, 0x0C, 0x80, 0xBF, 0x80, 0x3E])
    assert stored[1].tobytes() == bytes([0x88, 0x88, 0, 0, 0, 0])
    assert stored[2].tobytes() == bytes([0x88, 0x88, 0xC0, 0x7F, 0xC0, 0x7F])
    read = attention.load(stored)
    assert read[0].tolist() == [8, -4, 1, -2]
    assert not read[1].any()
    assert np.isnan(read[2]).all()


def test_models_are_as_the_onnx_package_reads_them() -> None:
    for case in cases():
        graph = ir.from_proto(onnx.load_from_string(case.model())).graph
        (node,) = graph
        assert (node.op_type, node.domain) == (case.operator, "pocketspec")
        assert {name: each.value for name, each in node.attributes.items()} == pytest.approx(dict(case.attributes))
        constants = {name: value.const_value.numpy() for name, value in graph.initializers.items()}
        assert constants.keys() == case.constants.keys()
        for name, array in constants.items():
            assert array.dtype == case.constants[name].dtype
            np.testing.assert_array_equal(array, case.constants[name])
        taken = {value.name for value in graph.inputs} | constants.keys()
        assert {value.name for value in node.inputs if value is not None} == taken


def test_long_and_negative_numbers_survive() -> None:
    attributes = {"large": 2**62, "negative": -5, "half": 0.5, "text": "größer"}
    node = GraphNode("Anything", ["x"], ["y"], attributes, domain="")
    value = ValueType("int64", (300, "rows"))
    model = ir.from_proto(onnx.load_from_string(encode_model([node], {"x": value}, {"y": value}, {})))
    assert {name: each.value for name, each in next(iter(model.graph)).attributes.items()} == attributes
    assert [getattr(size, "value", size) for size in model.graph.inputs[0].shape] == [300, "rows"]
    assert model.opset_imports.items() >= {"": 21, "pocketspec": 1}.items()
