"""Streaming weights into a graph: the bytes and where they lie, memory bounded by a tile, nothing left on failure."""

import errno
import os
import re
import tracemalloc
from collections.abc import Callable, Collection, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime
import pytest

from export.graph.recipe import AliasRecipe, ConstantRecipe, LoweredGraph, MatrixRecipe, PlainRecipe, Recipe
from export.manifest import PocketspecError
from export.quantization.blocks import Quantized
from export.quantization.quantize import QUANTIZERS
from export.sources.tensor_source import FloatArray
from export.writer import weights
from export.writer.data_file import DataFile
from export.writer.weights import WeightsError, write_weights
from tests.export.quantization.stored import weights_of

SEARCH = QUANTIZERS["search"]


class Arrays:
    """A TensorSource over arrays."""

    def __init__(self, arrays: Mapping[str, FloatArray]) -> None:
        self.arrays = arrays

    def names(self) -> Collection[str]:
        return self.arrays.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.arrays[name].shape

    def read(self, name: str, first: int = 0, last: int | None = None) -> FloatArray:
        return self.arrays[name][first:last]


def normal(*shape: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def matrix(name: str, *sources: str, rows: int, columns: int, bits: int = 4, symmetric: bool = True) -> MatrixRecipe:
    zero_points = None if symmetric else f"{name}.zero_points"
    return MatrixRecipe(f"{name}.codes", f"{name}.scales", sources, rows, columns, bits, 32, zero_points)


def outline(recipes: Collection[Recipe], shapes: Mapping[str, tuple[int, ...]] | None = None) -> LoweredGraph:
    """A graph that has the recipes' initializers and a node that uses them; ``shapes`` of aliases."""
    found: dict[str, tuple[ir.DataType, tuple[int, ...]]] = {}
    for recipe in recipes:
        if isinstance(recipe, MatrixRecipe):
            blocks = -(-recipe.columns // recipe.block_size)
            found[recipe.codes] = (ir.DataType.UINT8, (recipe.rows, blocks, recipe.block_size * recipe.bits // 8))
            found[recipe.scales] = (ir.DataType.FLOAT, (recipe.rows, blocks))
            if recipe.zero_points is not None:
                found[recipe.zero_points] = (ir.DataType.UINT8, (recipe.rows, -(-blocks * recipe.bits // 8)))
        elif isinstance(recipe, PlainRecipe):
            dtype = ir.DataType.FLOAT16 if recipe.dtype == "fp16" else ir.DataType.FLOAT
            found[recipe.name] = (dtype, recipe.shape)
        elif isinstance(recipe, ConstantRecipe):
            found[recipe.name] = (ir.DataType.from_numpy(recipe.value.dtype), recipe.value.shape)
        else:
            found[recipe.name] = (found[recipe.of][0], (shapes or {})[recipe.name])
    values = [ir.Value(name=n, type=ir.TensorType(d), shape=ir.Shape(s)) for n, (d, s) in found.items()]
    node = ir.node("Use", values, domain="test")
    graph = ir.Graph([], node.outputs, nodes=[node], initializers=values, opset_imports={"": 21, "test": 1})
    return LoweredGraph(ir.Model(graph, ir_version=10), tuple(recipes))


def load(folder: Path, stem: str = "model") -> dict[str, Any]:
    return {name: value.const_value for name, value in ir.load(folder / f"{stem}.onnx").graph.initializers.items()}


def array(tensor: Any) -> npt.NDArray[Any]:
    return np.asarray(tensor.numpy())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("tile_rows", [1, 7, 1000])
def test_stacked_tensors_are_quantized_as_one_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int, symmetric: bool, tile_rows: int
) -> None:
    monkeypatch.setattr(weights, "_TILE_BYTES", tile_rows * 4 * 80)
    source = Arrays({"q": normal(40, 80), "k": normal(8, 80, seed=1), "v": normal(9, 80, seed=2)})
    recipe = matrix("qkv", "q", "k", "v", rows=57, columns=80, bits=bits, symmetric=symmetric)
    report = write_weights(outline([recipe]), source, tmp_path, SEARCH)
    found = load(tmp_path)
    expected = SEARCH.quantize(np.concatenate(list(source.arrays.values())), bits, 32, symmetric)
    np.testing.assert_array_equal(array(found["qkv.codes"]), expected.codes)
    np.testing.assert_array_equal(array(found["qkv.scales"]), expected.scales)
    if expected.zero_points is not None:
        np.testing.assert_array_equal(array(found["qkv.zero_points"]), expected.zero_points)
    assert report.error == pytest.approx((expected.error[0] / expected.error[1]) ** 0.5, rel=1e-5)
    assert report.bytes == (tmp_path / "model.onnx.data").stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("height", [3, 300])
def test_plain_tensors_are_stacked_shifted_transposed_and_cast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, transpose: bool, height: int
) -> None:
    monkeypatch.setattr(weights, "_TILE_BYTES", 20 * 7 * 4)
    source = Arrays({"a": normal(height, 7), "b": normal(2, 7, seed=1)})
    whole = np.concatenate([source.arrays["a"], source.arrays["b"]]) + np.float32(1.5)
    whole = np.ascontiguousarray(whole.T) if transpose else whole
    recipe = PlainRecipe("w", ("a", "b"), whole.shape, dtype, 1.5, transpose)
    assert write_weights(outline([recipe]), source, tmp_path, SEARCH).error is None
    tensor = load(tmp_path)["w"]
    np.testing.assert_array_equal(array(tensor), whole.astype({"fp32": np.float32, "fp16": np.float16}[dtype]))
    assert isinstance(tensor, ir.ExternalTensor) == (tensor.nbytes >= 1024)


def test_vectors_and_constants(tmp_path: Path) -> None:
    table, few = np.arange(4096, dtype=np.float32).reshape(64, 64), np.arange(3, dtype=np.int64)
    recipes = [PlainRecipe("norm", ("n",), (500,)), ConstantRecipe("table", table), ConstantRecipe("few", few)]
    source = Arrays({"n": normal(500)})
    write_weights(outline(recipes), source, tmp_path, SEARCH)
    found = load(tmp_path)
    np.testing.assert_array_equal(array(found["norm"]), source.arrays["n"])
    np.testing.assert_array_equal(array(found["table"]), table)
    np.testing.assert_array_equal(array(found["few"]), few)
    assert [isinstance(found[name], ir.ExternalTensor) for name in ("norm", "table", "few")] == [True, True, False]


def test_large_tensors_begin_at_pages_and_none_overlap(tmp_path: Path) -> None:
    sizes = (1024, 300, 5000, 256, 70000)
    source = Arrays({f"t{size}": normal(size) for size in sizes})
    recipes = [PlainRecipe(f"w{size}", (f"t{size}",), (size,)) for size in sizes]
    write_weights(outline(recipes), source, tmp_path, SEARCH)
    places = sorted((tensor.offset, tensor.length) for tensor in load(tmp_path).values())
    assert len(places) == len(sizes)
    for offset, length in places:
        assert offset % (4096 if length >= 4096 else 64) == 0
    for (offset, length), (following, _) in pairwise(places):
        assert offset + length <= following


def test_an_alias_is_the_same_bytes_in_another_shape(tmp_path: Path) -> None:
    head = matrix("head", "embed", rows=50, columns=64)
    recipes = [AliasRecipe("embed.codes", "small"), AliasRecipe("rows", "head.codes"), head]
    small = ConstantRecipe("small", np.arange(6, dtype=np.float32))
    graph = outline([small, head, *recipes[:2]], {"rows": (50, 32), "embed.codes": (2, 3)})
    graph = LoweredGraph(graph.model, (*recipes, small))
    write_weights(graph, Arrays({"embed": normal(50, 64)}), tmp_path, SEARCH)
    found = load(tmp_path)
    assert (found["rows"].offset, found["rows"].length) == (found["head.codes"].offset, found["head.codes"].length)
    np.testing.assert_array_equal(array(found["rows"]), array(found["head.codes"]).reshape(50, 32))
    assert array(found["embed.codes"]).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_values_that_the_graph_already_has_move_to_the_data_file_if_large(tmp_path: Path) -> None:
    graph = outline([recipe := PlainRecipe("w", ("a",), (400,))])
    for name, size in (("large", 2000), ("small", 2)):
        value = ir.Value(name=name, const_value=ir.tensor(np.arange(size, dtype=np.int64), name=name))
        graph.model.graph.register_initializer(value)
    write_weights(LoweredGraph(graph.model, (recipe,)), Arrays({"a": normal(400)}), tmp_path, SEARCH)
    found = load(tmp_path)
    assert array(found["large"])[-1] == 1999
    assert isinstance(found["large"], ir.ExternalTensor)
    assert array(found["small"]).tolist() == [0, 1]


def test_onnx_runtime_computes_with_what_was_written(tmp_path: Path) -> None:
    recipe = matrix("w", "w", rows=24, columns=80, symmetric=False)
    outlined = outline([recipe]).model.graph.initializers
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n", 80]))
    attributes = {"K": 80, "N": 24, "bits": 4, "block_size": 32}
    values = [ir.Value(name=v.name, type=v.type, shape=v.shape) for v in outlined.values()]
    node = ir.node("MatMulNBits", [x, *values], attributes, domain="com.microsoft")
    node.outputs[0].name, node.outputs[0].type = "y", x.type
    opsets = {"": 21, "com.microsoft": 1}
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=values, opset_imports=opsets)
    source = Arrays({"w": normal(24, 80)})
    write_weights(LoweredGraph(ir.Model(graph, ir_version=10), (recipe,)), source, tmp_path, SEARCH, stem="one")
    session = onnxruntime.InferenceSession(tmp_path / "one.onnx", providers=["CPUExecutionProvider"])
    inputs = normal(5, 80, seed=3)
    (y,) = session.run(None, {"x": inputs})
    expected = weights_of(SEARCH.quantize(source.arrays["w"], 4, 32, symmetric=False), 4, 80)
    np.testing.assert_allclose(y, inputs @ expected.T, atol=1e-4)


def test_progress_counts_the_bytes_of_the_data_file(tmp_path: Path) -> None:
    recipes = [matrix("m", "m", rows=64, columns=256), PlainRecipe("w", ("w",), (3, 1000))]
    counts: list[int] = []
    source = Arrays({"m": normal(64, 256), "w": normal(3, 1000)})
    write_weights(outline(recipes), source, tmp_path, SEARCH, report=counts.append)
    assert sum(counts) == 64 * 256 // 2 + 64 * 8 * 4 + 3 * 1000 * 4


def test_importance_reaches_the_quantizer_by_tensor(tmp_path: Path) -> None:
    seen: dict[int, float | None] = {}

    class Spy:
        name = "spy"

        def quantize(
            self, rows: FloatArray, bits: int, block_size: int, symmetric: bool, importance: FloatArray | None = None
        ) -> Quantized:
            seen[len(rows)] = None if importance is None else float(importance[0])
            return SEARCH.quantize(rows, bits, block_size, symmetric)

    source = Arrays({"a": normal(3, 32), "b": normal(4, 32), "c": normal(5, 32)})
    importance = {"a": np.full(32, 7, np.float32), "c": np.full(32, 9, np.float32)}
    recipe = matrix("abc", "a", "b", "c", rows=12, columns=32)
    write_weights(outline([recipe]), source, tmp_path, Spy(), importance=importance)
    assert seen == {3: 7, 4: None, 5: 9}


def test_memory_follows_the_tile_and_not_the_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wide(Arrays):
        def shape(self, name: str) -> tuple[int, ...]:
            return (40_000, 256)

        def read(self, name: str, first: int = 0, last: int | None = None) -> FloatArray:
            assert last is not None
            return np.full((last - first, 256), 0.5, np.float32)

    monkeypatch.setattr(weights, "_TILE_BYTES", 1 << 20)
    recipes = [matrix("m", "m", rows=40_000, columns=256), PlainRecipe("t", ("t",), (256, 40_000), transpose=True)]
    graph = outline(recipes)
    tracemalloc.start()
    write_weights(graph, Wide({"m": normal(1), "t": normal(1)}), tmp_path, QUANTIZERS["rtn"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 << 20  # each tensor has 41 MB


def test_unused_tensors_are_reported(tmp_path: Path) -> None:
    names = ["w", "extra.bias", "lm_head.weight"]
    source = Arrays({name: normal(4) for name in names})
    report = write_weights(outline([PlainRecipe("w", ("w",), (4,))]), source, tmp_path, SEARCH)
    assert report.unused == ("extra.bias", "lm_head.weight")


def interrupted(source: Arrays) -> None:
    raise KeyboardInterrupt


def unreadable(source: Arrays) -> None:
    raise OSError(errno.EIO, "bad disk")


@pytest.mark.parametrize(("fail", "kind"), [(interrupted, KeyboardInterrupt), (unreadable, OSError)])
def test_a_failure_leaves_the_folder_as_it_was(
    tmp_path: Path, fail: Callable[[Arrays], None], kind: type[BaseException]
) -> None:
    class Failing(Arrays):
        def read(self, name: str, first: int = 0, last: int | None = None) -> FloatArray:
            if name == "b":
                fail(self)
            return super().read(name, first, last)

    (tmp_path / "model.onnx").write_text("an earlier graph")
    recipes = [matrix("ab", "a", "b", rows=80, columns=32)]
    with pytest.raises(kind):
        write_weights(outline(recipes), Failing({"a": normal(40, 32), "b": normal(40, 32)}), tmp_path, SEARCH)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"model.onnx": "an earlier graph"}


def test_a_graph_that_cannot_be_put_in_place_takes_its_data_along(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_weights(outline([PlainRecipe("w", ("w",), (999,))]), Arrays({"w": normal(999)}), tmp_path, SEARCH)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_full_disk_is_one_line_with_the_bytes_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: DataFile, position: int, values: npt.NDArray[Any]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(DataFile, "write", full)
    text = f"the disk is full: the weights in {tmp_path} need 20,000 bytes; free space or give another --output"
    with pytest.raises(WeightsError, match=re.escape(text)) as caught:
        write_weights(outline([PlainRecipe("w", ("w",), (5000,))]), Arrays({"w": normal(5000)}), tmp_path, SEARCH)
    assert isinstance(caught.value, PocketspecError)
    assert not list(tmp_path.iterdir())


WRONG_SHAPES: list[tuple[Recipe, str]] = [
    (
        PlainRecipe("w", ("a",), (4,)),
        "wrong shape: tensor 'a' [6, 32], the graph of this config expects [4]; config.json",
    ),
    (
        matrix("m", "a", rows=6, columns=64),
        "wrong shape: tensor 'a' [6, 32], the graph of this config expects [6, 64];",
    ),
    (
        PlainRecipe("w", ("a",), (6, 32), transpose=True),
        "tensor 'a' [6, 32], the graph of this config expects [32, 6];",
    ),
    (
        matrix("m", "a", "b", rows=9, columns=32),
        "wrong shape: stacked tensors 'a' [6, 32], 'b' [4, 32], the graph of this config expects [9, 32]; config.json "
        "and weights are not of one model",
    ),
]


@pytest.mark.parametrize(("recipe", "text"), WRONG_SHAPES)
def test_tensors_of_another_shape_are_refused_before_anything_is_written(
    tmp_path: Path, recipe: Recipe, text: str
) -> None:
    with pytest.raises(WeightsError, match=re.escape(text)):
        write_weights(outline([recipe]), Arrays({"a": normal(6, 32), "b": normal(4, 32)}), tmp_path, SEARCH)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_numbers_are_refused_by_name(tmp_path: Path) -> None:
    source = Arrays({"m": np.full((4, 32), np.nan, np.float32)})
    text = "tensor 'm': weights are not finite numbers; the checkpoint is damaged"
    with pytest.raises(WeightsError, match=text):
        write_weights(outline([matrix("m", "m", rows=4, columns=32)]), source, tmp_path, SEARCH)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("dtype", "value"), [("fp16", 1e5), ("fp32", np.inf)])
def test_values_that_the_type_cannot_hold_are_refused(tmp_path: Path, dtype: str, value: float) -> None:
    source = Arrays({"w": np.full(400, value, np.float32)})
    text = rf"tensor 'w' has values up to (1e\+05|inf), which {dtype} cannot hold; use another --quant"
    with pytest.raises(WeightsError, match=text):
        write_weights(outline([PlainRecipe("w", ("w",), (400,), dtype)]), source, tmp_path, SEARCH)
