"""Block quantization: exact bytes, round trips, what ONNX Runtime makes of them, and that a search never loses."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from export.manifest import PocketspecError
from export.quantization.blocks import Quantized, QuantizeError, check_block_size
from export.quantization.quantize import QUANTIZERS, Quantizer
from export.sources.tensor_source import FloatArray
from tests.export.quantization.stored import weights_of

METHODS = [pytest.param(QUANTIZERS[name], id=name) for name in ("rtn", "search")]
LAYOUTS = [(bits, symmetric) for bits in (4, 8) for symmetric in (True, False)]
weights = st.floats(-4, 4, width=32)


def random_rows(rows: int, columns: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def squared_error(quantized: Quantized, bits: int, rows: FloatArray) -> float:
    return float(np.square(weights_of(quantized, bits, rows.shape[1]).astype(np.float64) - rows).sum())


@pytest.mark.parametrize("method", METHODS)
def test_four_bit_codes_fill_the_lower_half_of_a_byte_first(method: Quantizer) -> None:
    # the largest weight is negative, so the scale is 0.5 and codes are the weights' doubles plus 8
    row = np.array([[-4, 3.5, 0, 0.5, -0.5, 1, 2, -3.5, 0, 0, 0, 0, 0, 0, 0, 3]], np.float32)
    quantized = method.quantize(row, 4, 16, symmetric=True)
    assert quantized.codes.tolist() == [[[0xF0, 0x98, 0xA7, 0x1C, 0x88, 0x88, 0x88, 0xE8]]]
    assert quantized.scales.tolist() == [[0.5]]
    assert quantized.zero_points is None
    assert quantized.error == (0.0, float(np.square(row).sum()))


@pytest.mark.parametrize("method", METHODS)
def test_a_positive_extreme_turns_the_sign_of_the_scale(method: Quantizer) -> None:
    row = np.array([[4, -3.5, *[0.5] * 14]], np.float32)
    quantized = method.quantize(row, 4, 16, symmetric=True)
    assert quantized.codes[0, 0, 0] == 0xF0
    assert quantized.scales.tolist() == [[-0.5]]


@pytest.mark.parametrize("method", METHODS)
def test_eight_bit_codes_are_one_byte_each(method: Quantizer) -> None:
    row = np.array([[-32, 31.75, 0, 0.25, *[0] * 12]], np.float32)
    quantized = method.quantize(row, 8, 16, symmetric=True)
    assert quantized.codes.tolist() == [[[0, 255, 128, 129, *[128] * 12]]]
    assert quantized.scales.tolist() == [[0.25]]


@pytest.mark.parametrize("method", METHODS)
def test_zero_points_are_packed_along_the_blocks_of_a_row(method: Quantizer) -> None:
    blocks = [np.linspace(low, low + 15, 16) for low in (0, -3, -15)]
    row = np.concatenate(blocks).astype(np.float32)[None] * np.float32(0.5)
    four = method.quantize(row, 4, 16, symmetric=False)
    assert four.zero_points is not None
    assert four.zero_points.tolist() == [[0x30, 0x0F]]
    assert four.codes[0].tolist() == [[0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE]] * 3
    assert four.scales.tolist() == [[0.5] * 3]
    eight = method.quantize(row, 8, 16, symmetric=False)
    assert eight.zero_points is not None
    assert eight.zero_points.shape == (1, 3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("bits", "symmetric"), LAYOUTS)
@pytest.mark.parametrize("block_size", [16, 32, 128])
def test_ternary_blocks_are_exact(method: Quantizer, bits: int, symmetric: bool, block_size: int) -> None:
    rng = np.random.default_rng(1)
    signs = rng.integers(-1, 2, (24, 256)).astype(np.float32)
    sizes = (rng.random((24, 256 // block_size)) + 1e-3).astype(np.float16)  # scales are rounded to float16's values
    magnitudes = np.repeat(sizes.astype(np.float32), block_size, axis=1)
    signs[3] = 0
    signs[4] = np.abs(signs[4])
    quantized = method.quantize(signs * magnitudes, bits, block_size, symmetric)
    np.testing.assert_array_equal(weights_of(quantized, bits, 256), signs * magnitudes)
    assert quantized.error[0] == 0


@pytest.mark.parametrize(("bits", "symmetric"), LAYOUTS)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_search_has_every_block_of_four_bit_codes_exactly(bits: int, symmetric: bool, data: st.DataObject) -> None:
    codes = data.draw(hnp.arrays(np.int8, (3, 32), elements=st.integers(-8, 7)))
    if not symmetric:
        codes = codes + np.int8(data.draw(st.integers(-7, 8)))
        codes = np.where(codes.min(axis=1, keepdims=True) > 0, 0, codes)  # zero must be among the codes
        codes = np.where(codes.max(axis=1, keepdims=True) < 0, 0, codes)
    scale = np.float32(data.draw(st.integers(1, 255))) / 1024 * np.float32(data.draw(st.sampled_from([-1, 1])))
    rows = codes.astype(np.float32) * scale
    quantized = QUANTIZERS["search"].quantize(rows, bits, 32, symmetric)
    np.testing.assert_array_equal(weights_of(quantized, bits, 32), rows)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("bits", "symmetric"), LAYOUTS)
@given(rows=hnp.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 70)), elements=weights))
@settings(max_examples=15, deadline=None)
def test_the_reported_error_is_that_of_the_stored_codes(
    method: Quantizer, bits: int, symmetric: bool, rows: FloatArray
) -> None:
    quantized = method.quantize(rows, bits, 16, symmetric)
    blocks = -(-rows.shape[1] // 16)
    assert quantized.codes.shape == (len(rows), blocks, 16 * bits // 8)
    assert quantized.scales.shape == (len(rows), blocks)
    assert quantized.error[0] == pytest.approx(squared_error(quantized, bits, rows), rel=1e-4, abs=1e-9)
    assert quantized.error[1] == pytest.approx(float(np.square(rows, dtype=np.float64).sum()), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(("bits", "symmetric"), LAYOUTS)
@given(rows=hnp.arrays(np.float32, (2, 64), elements=weights), seed=st.integers(0, 9), weighted=st.booleans())
@settings(max_examples=15, deadline=None)
def test_search_is_never_worse_than_rounding(
    bits: int, symmetric: bool, rows: FloatArray, seed: int, weighted: bool
) -> None:
    importance = np.random.default_rng(seed).random(64, np.float32) if weighted else None
    counts = np.ones(64) if importance is None else importance / importance.mean(dtype=np.float64) + 0.01
    loss = {}
    for name, method in ((name, QUANTIZERS[name]) for name in ("rtn", "search")):
        found = weights_of(method.quantize(rows, bits, 16, symmetric, importance), bits, 64)
        loss[name] = (np.square(found.astype(np.float64) - rows) * counts).reshape(2, 4, 16).sum(axis=2)
    assert (loss["search"] <= loss["rtn"] * (1 + 1e-5) + 1e-12).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("bits", "symmetric"), LAYOUTS)
@given(rows=hnp.arrays(np.float32, (2, 64), elements=weights), size=st.sampled_from([1e-6, 1e-3, 1.0, 1e5]))
@settings(max_examples=15, deadline=None)
def test_float16_holds_every_scale_of_its_normal_range(
    method: Quantizer, bits: int, symmetric: bool, rows: FloatArray, size: float
) -> None:
    scales = method.quantize(rows * np.float32(size), bits, 16, symmetric).scales
    normal = scales[(np.abs(scales) >= 2.0**-14) & (np.abs(scales) <= 65504)]
    np.testing.assert_array_equal(normal.astype(np.float16).astype(np.float32), normal)


def test_scales_that_float16_cannot_hold_are_not_rounded() -> None:
    row = np.linspace(-8e-7, 7e-7, 16, dtype=np.float32)[None]
    tiny = QUANTIZERS["search"].quantize(row, 4, 16, symmetric=True)
    assert squared_error(tiny, 4, row) < 1e-12 * np.square(row).sum()
    huge = QUANTIZERS["search"].quantize(row * np.float32(1e13), 4, 16, symmetric=True)
    assert squared_error(huge, 4, row * np.float32(1e13)) < 1e-12 * float(np.square(row * 1e13).sum())


@pytest.mark.parametrize(("symmetric", "gain"), [(True, 0.95), (False, 0.96)])
def test_search_gains_on_normal_weights(symmetric: bool, gain: float) -> None:
    rows = random_rows(64, 1024)
    errors = {name: method.quantize(rows, 4, 32, symmetric).error[0] ** 0.5 for name, method in QUANTIZERS.items()}
    assert errors["search"] < gain * errors["rtn"]


def test_importance_moves_the_error_to_columns_that_do_not_matter() -> None:
    rows = random_rows(64, 128)
    importance = np.where(np.arange(128) % 4 == 0, 10, 0.1).astype(np.float32)
    error = {}
    for weighted in (False, True):
        quantized = QUANTIZERS["search"].quantize(rows, 4, 32, True, importance if weighted else None)
        error[weighted] = np.square(weights_of(quantized, 4, 128) - rows).sum(axis=0)
        assert quantized.error[0] == pytest.approx(float(error[weighted].sum()), rel=1e-4)  # not weighted
    assert (error[True] * importance).sum() < 0.8 * (error[False] * importance).sum()
    assert error[True].sum() > error[False].sum()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("bits", "symmetric"), LAYOUTS)
def test_rows_do_not_depend_on_their_neighbours(method: Quantizer, bits: int, symmetric: bool) -> None:
    rows, importance = random_rows(300, 1000), np.random.default_rng(2).random(1000, np.float32)
    whole = method.quantize(rows, bits, 32, symmetric, importance)
    part = method.quantize(rows[150:], bits, 32, symmetric, importance)
    np.testing.assert_array_equal(whole.codes[150:], part.codes)
    np.testing.assert_array_equal(whole.scales[150:], part.scales)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("bits", "symmetric"), LAYOUTS)
@pytest.mark.parametrize("columns", [64, 80])
def test_onnx_runtime_reads_the_same_weights(method: Quantizer, bits: int, symmetric: bool, columns: int) -> None:
    rows = random_rows(24, columns)
    quantized = method.quantize(rows, bits, 32, symmetric)
    names = ["codes", "scales", "zero_points"]
    arrays = [quantized.codes, quantized.scales, quantized.zero_points]
    constants = [
        ir.Value(name=n, const_value=ir.tensor(a, name=n)) for n, a in zip(names, arrays, strict=True) if a is not None
    ]
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n", columns]))
    sizes = {"K": columns, "N": 24, "bits": bits, "block_size": 32}
    node = ir.node("MatMulNBits", [x, *constants], sizes, domain="com.microsoft")
    node.outputs[0].name, node.outputs[0].type = "y", x.type
    opsets = {"": 21, "com.microsoft": 1}
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=constants, opset_imports=opsets)
    model = ir.to_proto(ir.Model(graph, ir_version=10))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = random_rows(3, columns, seed=5)
    (y,) = session.run(None, {"x": inputs})
    np.testing.assert_allclose(y, inputs @ weights_of(quantized, bits, columns).T, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_numbers_are_refused(method: Quantizer, value: float) -> None:
    rows = random_rows(2, 32)
    rows[1, 3] = value
    with pytest.raises(QuantizeError, match="weights are not finite numbers; the checkpoint is damaged"):
        method.quantize(rows, 4, 32, True)


@pytest.mark.parametrize("tiny", [0.0, 1e-45, 1e-38, -1e-31])
@pytest.mark.parametrize(("bits", "symmetric"), LAYOUTS)
@pytest.mark.parametrize("method", METHODS)
def test_blocks_of_almost_nothing_become_zeros(method: Quantizer, bits: int, symmetric: bool, tiny: float) -> None:
    quantized = method.quantize(np.full((1, 32), tiny, np.float32), bits, 32, symmetric)
    assert not weights_of(quantized, bits, 32).any()


@pytest.mark.parametrize("block_size", [0, 8, 48, -32])
def test_a_block_size_that_no_operator_takes_is_refused(block_size: int) -> None:
    with pytest.raises(QuantizeError, match=f"block size {block_size} is not a power of two from 16 on; use 32 or 128"):
        check_block_size(block_size)
    assert issubclass(QuantizeError, PocketspecError)


def test_other_numbers_of_bits_are_refused() -> None:
    with pytest.raises(QuantizeError, match="2 bits per weight is not supported; use 4 or 8"):
        QUANTIZERS["rtn"].quantize(random_rows(1, 32), 2, 32, True)
