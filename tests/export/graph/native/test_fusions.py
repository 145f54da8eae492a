"""Fusions one by one, on graphs small enough to read: what is fused, and what must be left alone."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from export.graph.native.attention import find_bias
from export.graph.native.build import fuse_operators

_HEAD = """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
g (float[1, s, 32] x, float[1, s, 32] r, float[32] w, float[32] b, uint8[32, 1, 16] c, float[32, 1] k, int64[1] from,
   uint8[64, 1, 16] c2, float[64, 1] k2, float[64] b2, int64[1] one, int64[1] two, int64[2] halves, int64[1, s] ids)
  => ({outputs}) {{
{body}
}}
"""
_NORM = "SimplifiedLayerNormalization <axis = -1, epsilon = 0.5>"
_SKIP = "com.microsoft.SkipSimplifiedLayerNormalization <epsilon = 0.5>"


def product(inputs: str, rows: int = 32) -> str:
    """A product of ``rows`` rows by 32 columns."""
    return f"com.microsoft.MatMulNBits <K = 32, N = {rows}, bits = 4, block_size = 32> ({inputs})"


def fuse(body: str, outputs: str = "float[1, s, 32] y") -> dict[str, ir.Node]:
    """The nodes after all fusions, by the name of their first output."""
    model = ir.from_onnx_text(_HEAD.format(body=body, outputs=outputs))
    for node in model.graph:  # as torch's exporter writes them, values have shapes
        for value in node.outputs:
            if value.shape is None:
                width = node.attributes["N"].as_int() if "N" in node.attributes else 32
                value.shape = ir.Shape([1, "s", width])
    fuse_operators(model)
    return {str(node.outputs[0].name): node for node in model.graph}


def inputs_of(node: ir.Node) -> list[str | None]:
    return [value.name if value is not None else None for value in node.inputs]


def test_a_norm_becomes_the_gain_of_its_reader() -> None:
    nodes = fuse(f"n = {_NORM} (x, w) \n y = {product('n, c, k, , , b')}")
    assert list(nodes) == ["y"]
    assert inputs_of(nodes["y"]) == ["x", "c", "k", None, "b", "w"]
    assert nodes["y"].attributes["epsilon"].as_float() == 0.5


def test_a_norm_moves_through_a_choice_of_rows() -> None:
    nodes = fuse(
        f"n = {_NORM} (x, w) \n f = Slice (n, from, two, axis) \n y = {product('f, c, k')}".replace("axis", "one")
    )
    # the axes are no constant here, so that nothing is known of the cut
    assert nodes["n"].op_type == "SimplifiedLayerNormalization"


@pytest.mark.parametrize(
    "body",
    [
        f"n = {_NORM} (x, w) \n p = {product('n, c, k')} \n y = Add (p, n)",  # somebody else reads it
        f"n = {_NORM} (x, w) \n y = Relu (n)",
    ],
)
def test_a_norm_that_others_read_stays(body: str) -> None:
    assert fuse(body)["n"].op_type == "SimplifiedLayerNormalization"


def test_a_sum_becomes_the_residual_of_the_product() -> None:
    for terms in ("p, r", "r, p"):
        nodes = fuse(f"p = {product('x, c, k')} \n y = Add ({terms})")
        assert list(nodes) == ["y"]
        assert inputs_of(nodes["y"]) == ["x", "c", "k", None, None, None, "r"]


def test_a_residual_that_is_known_late_moves_the_product() -> None:
    nodes = fuse(f"p = {product('x, c, k')} \n late = Relu (r) \n y = Add (late, p)")
    assert list(nodes) == ["late", "y"]
    assert inputs_of(nodes["y"])[6] == "late"


def test_of_two_products_one_takes_the_other() -> None:
    nodes = fuse(f"p = {product('x, c, k')} \n q = {product('r, c, k')} \n y = Add (p, q)")
    assert [node.op_type for node in nodes.values()] == ["MatMulPanel"] * 2
    other, last = nodes.values()
    assert inputs_of(last)[6] == other.outputs[0].name


@pytest.mark.parametrize(
    "body",
    [
        f"p = {product('x, c, k')} \n t = Add (p, r) \n y = Add (t, p)",  # the product is read twice
        f"p = {product('x, c, k')} \n y = Add (p, w)",  # one row for all
    ],
)
def test_other_sums_stay(body: str) -> None:
    assert fuse(body)["y"].op_type == "Add"


def test_a_skip_norm_becomes_residual_and_gain() -> None:
    nodes = fuse(
        f"p = {product('x, c, k')} \n n, , , t = {_SKIP} (r, p, w) \n z = {product('n, c, k')} \n y = Add (z, t)"
    )
    assert [node.op_type for node in nodes.values()] == ["MatMulPanel"] * 2
    first, second = nodes.values()
    assert inputs_of(first)[6] == "r"
    assert inputs_of(second) == [first.outputs[0].name, "c", "k", None, None, "w", first.outputs[0].name]


def test_a_skip_norm_between_strangers_stays() -> None:
    nodes = fuse(f"p = Relu (x) \n n, , , t = {_SKIP} (r, p, w) \n y = Add (n, t)")
    assert nodes["n"].op_type == "SkipSimplifiedLayerNormalization"


SILU = "com.microsoft.QuickGelu <alpha = 1.0>"
GATE = "g, u = Split <axis = -1> (p, halves) \n"


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (f"{SILU} (g)", "silu"),
        ('Gelu <approximate = "tanh"> (g)', "gelu_tanh"),
    ],
)
def test_gate_and_up_become_one_product(activation: str, name: str) -> None:
    nodes = fuse(f"p = {product('x, c2, k2', 64)} \n {GATE} a = {activation} \n y = Mul (u, a)")
    assert list(nodes) == ["y"]
    attributes = nodes["y"].attributes
    assert (attributes["N"].as_int(), attributes["activation"].as_string()) == (32, name)


@pytest.mark.parametrize(
    "body",
    [
        f"p = {product('x, c2, k2, , , b2', 64)} \n {GATE} a = {SILU} (g) \n y = Mul (a, u)",
        f"p = {product('x, c2, k2', 64)} \n {GATE} a = com.microsoft.QuickGelu <alpha = 1.7> (g) \n y = Mul (a, u)",
        f"p = {product('x, c2, k2', 64)} \n {GATE} a = {SILU} (u) \n y = Mul (a, g)",
        f"p = {product('x, c2, k2', 64)} \n {GATE} a = Gelu (g) \n y = Mul (a, u)",
        f"p = {product('x, c2, k2', 64)} \n {GATE} a = {SILU} (g) \n z = Mul (a, u) \n y = Add (z, g)",
    ],
    ids=["bias", "alpha", "swapped", "erf", "read twice"],
)
def test_other_gates_stay(body: str) -> None:
    assert fuse(body)["y"].op_type in ("Mul", "Add")


def test_a_constant_factor_becomes_the_scale_of_a_gather() -> None:
    gather = "com.microsoft.GatherBlockQuantized <bits = 4, block_size = 32, gather_axis = 0, quantize_axis = 1>"
    rows = "e = {gather} (c, ids, k) \n f = Constant <value_float = 3.0> () \n y = Mul (e, {by})"
    nodes = fuse(rows.format(gather=gather, by="f"))
    assert nodes["y"].op_type == "GatherPanel"
    assert nodes["y"].attributes["scale"].as_float() == 3
    assert fuse(rows.format(gather=gather, by="w"))["y"].op_type == "Mul"


BIAS = """<ir_version: 10, opset_import: ["" : 21]>
g (float[1, 1, r, t] tree_bias, int64[1, s] position_ids, int64[1, s] others, int64 past, int64 first, int64 step,
   int64[1] axis, int64[4] shape) => (float[1, 1, s, t] bias) {{
  before = Range (first, past, step)
  row = Unsqueeze (before, axis)
  keys = Concat <axis = 1> (row, {keys})
  a = Unsqueeze (position_ids, axis)
  b = Unsqueeze (keys, axis)
  distance = Sub (a, b)
  window = Constant <value_int = 6> ()
  outside = {compare} (distance, window)
  masked = Constant <value_float = {masked}> ()
  zero = Constant <value_float = 0.0> ()
  hidden = Where (outside, masked, zero)
  wide = Unsqueeze (hidden, axis)
  tree = Expand ({tree}, shape)
  bias = Add (tree, wide)
}}
"""
AS_LOWERED = {"keys": "position_ids", "compare": "GreaterOrEqual", "masked": "-1e30", "tree": "tree_bias"}


def window_of(**fields: str) -> int | None:
    (bias,) = ir.from_onnx_text(BIAS.format(**{**AS_LOWERED, **fields})).graph.outputs
    found = find_bias(bias)
    return None if found is None else found.window


def test_a_window_is_read_from_the_bias_it_was_made_into() -> None:
    assert window_of() == 6
    without = find_bias(None)
    assert without is not None
    assert (without.tree, without.window) == (None, 0)


@pytest.mark.parametrize("other", [{"keys": "others"}, {"compare": "Greater"}, {"masked": "-1.0"}, {"tree": "wide"}])
def test_another_bias_is_not_taken_for_a_window(other: dict[str, str]) -> None:
    assert window_of(**other) is None
