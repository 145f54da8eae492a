"""Layers with states take over what stands around them, and give what the separate operators gave."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import parser

from export.graph.functions import define_functions
from export.graph.ir_helpers import dims_of
from export.graph.native.functions import NativeFunctions
from export.graph.native.states import FuseStates
from runtime.kernels.library import KernelsError, open_library

KEY_HEADS, HEADS, KEY, VALUE, WIDTH = 2, 4, 8, 20, 3
KEYS, VALUES = KEY_HEADS * KEY, HEADS * VALUE
CONVOLVED, ROW = 2 * KEYS + VALUES, 2 * KEYS + 2 * VALUES + 2 * HEADS
UPDATE = HEADS * (1 + VALUE) + KEYS
SOFT = "soft = Softplus (total)"
# As torch's exporter writes it.
SOFT_PARTS = """c1 = CastLike (unit, total)
    scaled = Mul (total, c1)
    raw = Softplus (scaled)
    c2 = CastLike (unit, raw)
    divided = Div (raw, c2)
    c3 = CastLike (limit, scaled)
    large = Greater (scaled, c3)
    soft = Where (large, total, divided)"""
FUSED = {"ShortConvolution": 1, "LinearRecurrence": 1, "Exp": 1, "Neg": 1}


def delta_layer(soft: str = SOFT_PARTS, gate_size: int = VALUE) -> ir.Model:
    """A gated delta rule between the products of its layer; ``gate_size``: of the heads of its norm."""
    return _model(
        f"""layer (float[1, rows, {ROW}] x, int64[1] length, int64[2] replay, float[1, slots, {CONVOLVED}] ring,
      float[1, {HEADS}, {KEY}, {VALUE}] base, float[1, held, {UPDATE}] updates, float[{WIDTH}, {CONVOLVED}] taps,
      float[{HEADS}] rates, float[{HEADS}] bias, float[{gate_size}] gain)
    => (float[1, rows, {VALUES}] out, float[1, slots, {CONVOLVED}] next_ring,
        float[1, {HEADS}, {KEY}, {VALUE}] next_base, float[1, held, {UPDATE}] next_updates)
    <int64[4] parts = {{{CONVOLVED}, {VALUES}, {HEADS}, {HEADS}}}, int64[3] qkv = {{{KEYS}, {KEYS}, {VALUES}}},
     int64[2] by_head = {{-1, {gate_size}}}, int64[3] whole = {{1, -1, {VALUES}}}, float unit = {{1.0}},
     float limit = {{20.0}}> {{
    mixed, z, b, a = Split <axis = -1> (x, parts)
    convolved, next_ring = pocketspec.ShortConvolution <width = {WIDTH}, silu = 1> (mixed, taps, "", ring, length)
    q, k, v = Split <axis = -1> (convolved, qkv)
    beta = Sigmoid (b)
    grown = Exp (rates)
    falling = Neg (grown)
    total = Add (a, bias)
    {soft}
    decay = Mul (falling, soft)
    y, next_base, next_updates = pocketspec.LinearRecurrence
        <key_heads = {KEY_HEADS}, scale = 0.35, epsilon = 1e-6> (q, k, v, decay, beta, base, updates, replay)
    y2 = Reshape (y, by_head)
    z2 = Reshape (z, by_head)
    open = com.microsoft.QuickGelu <alpha = 1.0> (z2)
    normed = SimplifiedLayerNormalization <axis = -1, epsilon = 1e-6> (y2, gain)
    gated = Mul (normed, open)
    out = Reshape (gated, whole)
}}""",
        {"mixed": CONVOLVED, "z": VALUES, "b": HEADS, "a": HEADS, "convolved": CONVOLVED, "q": KEYS, "k": KEYS}
        | {"v": VALUES, "decay": HEADS, "y": VALUES},
    )


def gated_convolution() -> ir.Model:
    """A short convolution between two products of parts of its row."""
    return _model(
        f"""layer (float[1, rows, 30] x, int64[1] length, float[1, slots, 10] ring, float[{WIDTH}, 10] taps)
    => (float[1, rows, 10] out, float[1, slots, 10] next_ring) <int64[3] parts = {{10, 10, 10}}> {{
    b, c, h = Split <axis = -1> (x, parts)
    mixed = Mul (b, h)
    y, next_ring = pocketspec.ShortConvolution <width = {WIDTH}, silu = 0> (mixed, taps, "", ring, length)
    out = Mul (c, y)
}}""",
        dict.fromkeys(("b", "c", "h", "mixed", "y"), 10),
    )


def _model(text: str, widths: dict[str, int]) -> ir.Model:
    opsets = '"" : 21, "pocketspec" : 1, "com.microsoft" : 1'
    model = ir.serde.deserialize_model(parser.parse_model(f"<ir_version: 10, opset_import: [{opsets}]>\n{text}"))
    rng = np.random.default_rng(0)
    for value in list(model.graph.inputs):
        if value.name in ("taps", "rates", "bias", "gain"):
            sizes = [int(size) for size in dims_of(value)]
            value.const_value = ir.tensor(rng.standard_normal(sizes).astype(np.float32), name=value.name)
            model.graph.register_initializer(value)
            model.graph.inputs.remove(value)
    for node in model.graph:
        for value in node.outputs:
            if value.name in widths:
                value.shape = ir.Shape([1, "rows", widths[value.name]])
    return model


def fuse(model: ir.Model) -> Counter[str]:
    """Fuses in place; what operators are left, by their number."""
    NativeFunctions()(model)
    FuseStates()(model)
    ir.passes.common.RemoveUnusedNodesPass()(model)
    return Counter(node.op_type for node in model.graph)


def run(model: ir.Model, native: bool) -> list[np.ndarray]:
    """Two steps of four and three rows, of which the second repeats one update and folds it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if native:
        try:
            open_library().register(options, 1)
        except KernelsError as error:
            pytest.skip(str(error))
    else:
        define_functions(model)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    sizes = {"rows": 4, "slots": WIDTH + 3, "held": 6}
    inputs = {value.name: value for value in session.get_inputs()}
    names = [name for name in inputs if name not in ("x", "length", "replay")]
    states = [np.zeros([sizes.get(size, size) for size in inputs[name].shape], np.float32) for name in names]
    rng, results = np.random.default_rng(1), []
    for rows, length, replay in ((4, 4, (0, 0)), (3, 4, (1, 1))):
        x = rng.standard_normal((1, rows, inputs["x"].shape[2])).astype(np.float32)
        given = {
            "x": x,
            "length": np.array([length]),
            "replay": np.array(replay),
            **dict(zip(names, states, strict=True)),
        }
        out, *states = session.run(None, {name: given[name] for name in inputs})
        results += [out, *states]
    return results


@pytest.mark.parametrize("soft", [SOFT, SOFT_PARTS])
def test_a_delta_rule_becomes_two_operators(soft: str) -> None:
    model = delta_layer(soft)
    assert fuse(model) == FUSED


def test_a_gated_convolution_becomes_one_operator() -> None:
    assert fuse(gated_convolution()) == {"ShortConvolution": 1}


@pytest.mark.parametrize("make", [delta_layer, gated_convolution])
def test_fused_layers_give_what_the_separate_operators_gave(make: object) -> None:
    assert callable(make)
    fused = make()
    fuse(fused)
    for got, wanted in zip(run(fused, native=True), run(make(), native=False), strict=True):
        np.testing.assert_allclose(got[:, :3], wanted[:, :3], rtol=1e-4, atol=1e-5)


def test_a_norm_over_other_heads_stays() -> None:
    model = delta_layer(gate_size=VALUE // 2)
    assert fuse(model)["SimplifiedLayerNormalization"] == 1


def test_another_threshold_stays() -> None:
    model = delta_layer(SOFT_PARTS.replace("(limit, scaled)", "(unit, scaled)"))
    assert fuse(model)["Softplus"] == 1
