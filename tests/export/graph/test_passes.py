"""Each pass on a graph written out as text: what it changes, what it leaves, and that the result is the same."""

from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx_ir.passes import InPlacePass
from onnx_ir.passes.common import RemoveUnusedNodesPass

from export.graph.layout_passes import CancelLayouts, ConstantShapes, SinkTransposes, SplitSlices
from export.graph.lowering.linear import Storage
from export.graph.passes import FuseSilu, FuseSkipNorm, GraphRecipes, LowerEmbeddings, LowerProducts, PackProducts
from export.graph.recipe import AliasRecipe, MatrixRecipe, PlainRecipe

HEADER = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1, "pocketspec" : 1]>\n'
UNUSED = RemoveUnusedNodesPass()


def parse(text: str) -> ir.Model:
    """The model of ONNX text without its header; every value gets the shape that is declared for it."""
    return ir.from_onnx_text(HEADER + text)


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def run(model: ir.Model, **feeds: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return session.run(None, feeds)


def same_after(text: str, *passes: InPlacePass, **feeds: np.ndarray) -> ir.Model:
    """The model after ``passes``, once it is shown to compute what it did before."""
    before, model = run(parse(text), **feeds), parse(text)
    for transformation in passes:
        transformation(model)
    for wanted, got in zip(before, run(model, **feeds), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)
    return model


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


HEADS = """agraph (float[1,S,24] x, int64[4] split, int64[3] join) => (float[1,S,24] y)
<float[1,S,4,6] a, float[1,4,S,6] b, float[1,S,4,6] c, float[1,S,24] d> {
    a = Reshape(x, split)
    b = Transpose<perm = [0, 2, 1, 3]>(a)
    c = Transpose<perm = [0, 2, 1, 3]>(b)
    d = Reshape(c, join)
    y = Neg(d)
}"""


def test_layouts_that_undo_each_other_vanish() -> None:
    feeds = {"x": random(1, 5, 24), "split": np.array([1, 5, 4, 6]), "join": np.array([1, 5, 24])}
    before = run(parse(HEADS), **feeds)
    model = parse(HEADS)
    CancelLayouts()(model)
    UNUSED(model)
    assert ops(model) == ["Neg"]
    np.testing.assert_array_equal(run(model, **feeds)[0], before[0])


def test_transposes_that_do_not_undo_each_other_become_one() -> None:
    text = """agraph (float[1,S,4,6] x) => (float[4,1,6,S] y) <float[1,4,S,6] a, float[4,1,6,S] b> {
        a = Transpose<perm = [0, 2, 1, 3]>(x)
        b = Transpose<perm = [1, 0, 3, 2]>(a)
        y = Neg(b)
    }"""
    assert ops(same_after(text, CancelLayouts(), UNUSED, x=random(1, 5, 4, 6))) == ["Transpose", "Neg"]


def test_a_reshape_to_another_shape_stays() -> None:
    text = HEADS.replace("float[1,S,24] d", "float[S,24] d").replace("float[1,S,24] y", "float[S,24] y")
    feeds = {"x": random(1, 5, 24), "split": np.array([1, 5, 4, 6]), "join": np.array([5, 24])}
    assert "Reshape" in ops(same_after(text.replace("int64[3] join", "int64[2] join"), CancelLayouts(), **feeds))


def test_shapes_become_constants_with_one_open_dimension() -> None:
    text = """agraph (float[1,S,24] x) => (float[1,S,4,6] y)
    <int64[1] rows, int64[1] one = {1}, int64[2] heads = {4, 6}> {
        rows = Shape<start = 1, end = 2>(x)
        shape = Concat<axis = 0>(one, rows, heads)
        y = Reshape(x, shape)
    }"""
    model = same_after(text, ConstantShapes(), UNUSED, x=random(1, 5, 24))
    assert ops(model) == ["Reshape"]
    assert model.graph[0].inputs[1].const_value.numpy().tolist() == [1, -1, 4, 6]


def test_two_open_dimensions_are_left_alone() -> None:
    text = "agraph (float[A,B,6] x, int64[2] shape) => (float[A,C] y) { y = Reshape(x, shape) }"
    model = parse(text)
    assert not ConstantShapes()(model).modified


SUNK = """agraph (float[1,S,4,6] x, float[6] w) => (float[1,S,4,6] y) <float[1,4,S,6] a, float[1,4,S,6] b> {
    a = Transpose<perm = [0, 2, 1, 3]>(x)
    b = SimplifiedLayerNormalization<axis = -1, epsilon = 0.001>(a, w)
    y = Transpose<perm = [0, 2, 1, 3]>(b)
}"""


def test_transposes_sink_through_a_norm_and_cancel() -> None:
    model = same_after(SUNK, SinkTransposes(), UNUSED, x=random(1, 5, 4, 6), w=random(6))
    assert ops(model) == ["SimplifiedLayerNormalization", "Transpose", "Transpose"]


def test_a_transpose_of_the_normed_axis_does_not_sink() -> None:
    text = SUNK.replace("[0, 2, 1, 3]>(x)", "[0, 3, 1, 2]>(x)").replace("float[1,4,S,6] a, float[1,4,S,6] b", "")
    assert not SinkTransposes()(parse(text.replace("<>", ""))).modified


def slices(*bounds: tuple[int, int]) -> str:
    names = [f"y{i}" for i in range(len(bounds))]
    lines = [f"{name} = Slice(x, b{low}, b{high}, axis, step)" for name, (low, high) in zip(names, bounds, strict=True)]
    constants = "".join(f", int64[1] b{n} = {{{n}}}" for n in sorted({n for pair in bounds for n in pair}))
    outputs = ", ".join(f"float[1,S,D{i}] {name}" for i, name in enumerate(names))
    body = "\n".join(lines)
    return (
        f"agraph (float[1,S,10] x) => ({outputs}) <int64[1] axis = {{2}}, int64[1] step = {{1}}{constants}> {{{body}}}"
    )


def test_slices_that_make_the_whole_become_a_split() -> None:
    model = same_after(slices((6, 99), (0, 4), (4, 6)), SplitSlices(), x=random(1, 5, 10))
    assert ops(model) == ["Split"]


@pytest.mark.parametrize("bounds", [((0, 4), (4, 9)), ((0, 4), (5, 10)), ((0, 6), (4, 10)), ((2, 10),)])
def test_slices_that_do_not_are_left(bounds: tuple[tuple[int, int], ...]) -> None:
    assert not SplitSlices()(parse(slices(*bounds))).modified


def test_silu_is_one_operator() -> None:
    text = "agraph (float[1,S,8] x) => (float[1,S,8] y) { s = Sigmoid(x) y = Mul(x, s) }"
    assert ops(same_after(text, FuseSilu(), UNUSED, x=random(1, 5, 8))) == ["QuickGelu"]


def test_a_gate_by_another_value_is_no_silu() -> None:
    text = "agraph (float[1,S,8] x, float[1,S,8] z) => (float[1,S,8] y) { s = Sigmoid(x) y = Mul(z, s) }"
    assert not FuseSilu()(parse(text)).modified


RESIDUAL = """agraph (float[1,S,8] x, float[1,S,8] z, float[8] w) => (float[1,S,8] y, float[1,S,8] t)
<float[1,S,8] a> {
    a = Add(x, z)
    y = SimplifiedLayerNormalization<axis = -1, epsilon = 0.001>(a, w)
    t = Neg(a)
}"""


def test_residual_and_norm_are_one_operator_with_both_results() -> None:
    model = same_after(RESIDUAL, FuseSkipNorm(), x=random(1, 5, 8), z=random(1, 5, 8) * 2, w=random(8))
    assert ops(model) == ["SkipSimplifiedLayerNormalization", "Neg"]


def test_a_sum_that_broadcasts_is_no_residual() -> None:
    text = RESIDUAL.replace("float[1,S,8] z", "float[8] z")
    assert not FuseSkipNorm()(parse(text)).modified


def products(model: ir.Model) -> GraphRecipes:
    """The recipes of a model whose initializers are a.q.weight and so on."""
    weights = GraphRecipes(Storage("int4", 16, True))
    for name, value in model.graph.initializers.items():
        weights.recipes[name] = PlainRecipe(name, (name,), tuple(value.shape))
        value.const_value = None
    return weights


def weight(name: str, *shape: int) -> str:
    numbers = ", ".join(["0"] * int(np.prod(shape)))
    return f"float[{','.join(map(str, shape))}] {name} = {{{numbers}}}"


TWO = f"""agraph (float[1,S,16] x) => (float[1,S,3] y, float[1,S,2] z) <{weight("q", 3, 16)}, {weight("k", 2, 16)}> {{
    y = pocketspec.Linear(x, q)
    z = pocketspec.Linear(x, k)
}}"""


def renamed(model: ir.Model) -> ir.Model:
    """Text cannot spell dots: initializers get the checkpoint's kind of name."""
    for value in list(model.graph.initializers.values()):
        value.name = f"layer.{value.name}.weight"
    return model


def test_products_of_one_input_are_packed_in_order() -> None:
    model = renamed(parse(TWO))
    weights = products(model)
    PackProducts(weights)(model)
    assert ops(model) == ["Linear", "Split"]
    recipe = weights.recipes["layer.q_k.weight"]
    assert recipe == PlainRecipe("layer.q_k.weight", ("layer.q.weight", "layer.k.weight"), (5, 16))
    assert model.graph[1].inputs[1].const_value.numpy().tolist() == [3, 2]
    assert [value.name for value in model.graph.outputs] == ["y", "z"]
    assert list(model.graph.outputs) == list(model.graph[1].outputs)


def test_products_with_and_without_bias_are_not_packed() -> None:
    text = TWO.replace("Linear(x, k)", "Linear(x, k, b)").replace("S,16] x)", "S,16] x, float[2] b)")
    model = renamed(parse(text))
    assert not PackProducts(products(model))(model).modified


def test_lowered_products_read_codes_and_scales() -> None:
    model = renamed(parse(TWO))
    weights = products(model)
    LowerProducts(weights)(model)
    assert ops(model) == ["MatMulNBits", "MatMulNBits"]
    recipe = weights.recipes["layer.q.weight.codes"]
    assert isinstance(recipe, MatrixRecipe)
    assert (recipe.rows, recipe.columns, recipe.bits, recipe.sources) == (3, 16, 4, ("layer.q.weight",))


def test_a_tied_embedding_reads_the_bytes_of_the_head() -> None:
    text = f"""agraph (int64[1,S] ids) => (float[1,S,3] y) <float[1,S,16] h, {weight("e", 3, 16)}> {{
        h = Gather(e, ids)
        y = pocketspec.Linear(h, e)
    }}"""
    model = renamed(parse(text))
    weights = products(model)
    LowerProducts(weights)(model)
    LowerEmbeddings(weights)(model)
    assert ops(model) == ["GatherBlockQuantized", "MatMulNBits"]
    gather, product = model.graph[0], model.graph[1]
    alias = weights.recipes[gather.inputs[0].name]
    assert alias == AliasRecipe("layer.e.weight.codes.rows", product.inputs[1].name)
    assert gather.inputs[2] is product.inputs[2]
    assert list(gather.inputs[0].shape) == [3, 8]
