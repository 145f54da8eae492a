"""What is read back from a graph is what was written to it, under the checkpoint's names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from export.graph.recipe import LoweredGraph, MatrixRecipe, PlainRecipe, Recipe
from export.quantization.blocks import unpack_pairs
from export.quantization.quantize import QUANTIZERS
from export.sources.tensor_source import FloatArray
from export.validation.dequantized import WrittenWeights
from export.writer.weights import write_weights

RNG = np.random.default_rng(3)


class Tensors:
    """A TensorSource over arrays."""

    def __init__(self, **tensors: npt.NDArray[np.float32]) -> None:
        self.tensors = tensors
        self.names = tensors.keys

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def read(self, name: str, first: int = 0, last: int | None = None) -> FloatArray:
        return self.tensors[name][first:last]


def _graph(recipes: tuple[Recipe, ...], shapes: dict[str, tuple[ir.DataType, tuple[int, ...]]]) -> LoweredGraph:
    values = [ir.Value(name=n, shape=ir.Shape(s), type=ir.TensorType(t)) for n, (t, s) in shapes.items()]
    graph = ir.Graph([], [], nodes=[], name="weights", opset_imports={"": 21})
    for value in values:
        graph.initializers[str(value.name)] = value
    return LoweredGraph(ir.Model(graph, ir_version=10), recipes)


def _written(folder: Path, graph: LoweredGraph, source: Tensors) -> WrittenWeights:
    write_weights(graph, source, folder, QUANTIZERS["rtn"])
    return WrittenWeights(folder / "model.onnx", graph.recipes, source)


def test_low_half_comes_first() -> None:
    assert unpack_pairs(np.array([[0x21, 0x43]], np.uint8)).tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_stacked_matrices_come_back_within_a_step(tmp_path: Path, bits: int, symmetric: bool) -> None:
    source = Tensors(q=RNG.normal(size=(48, 80)).astype(np.float32), k=RNG.normal(size=(16, 80)).astype(np.float32) + 1)
    recipe = MatrixRecipe("c", "s", ("q", "k"), 64, 80, bits, 32, None if symmetric else "z")
    shapes: dict[str, Any] = {
        "c": (ir.DataType.UINT8, (64, 3, 32 * bits // 8)),
        "s": (ir.DataType.FLOAT, (64, 3)),
        "z": (ir.DataType.UINT8, (64, 2 if bits == 4 else 3)),
    }
    if symmetric:
        del shapes["z"]
    written = _written(tmp_path, _graph((recipe,), shapes), source)
    for name, rows in source.tensors.items():
        step = (rows.max() - rows.min()) / (2**bits - 1) * (2 if symmetric else 1)
        back = written.read(name)
        assert back.shape == rows.shape
        assert np.abs(back - rows).max() <= step
        assert np.array_equal(written.read(name, 3, 7), back[3:7])


def test_float_tensors_lose_their_offset_and_transposition(tmp_path: Path) -> None:
    source = Tensors(
        norm=RNG.normal(size=600).astype(np.float32),
        up=RNG.normal(size=(20, 30)).astype(np.float32),
        gate=RNG.normal(size=(10, 30)).astype(np.float32),
    )
    recipes = (
        PlainRecipe("n", ("norm",), (600,), offset=1.0),
        PlainRecipe("m", ("up", "gate"), (30, 30), transpose=True),
    )
    shapes = {"n": (ir.DataType.FLOAT, (600,)), "m": (ir.DataType.FLOAT, (30, 30))}
    written = _written(tmp_path, _graph(recipes, shapes), source)
    assert np.allclose(written.read("norm"), source.tensors["norm"], atol=1e-6)
    for name in ("up", "gate"):
        assert np.array_equal(written.read(name), source.tensors[name])
        assert np.array_equal(written.read(name, 2, 5), source.tensors[name][2:5])
    assert set(written.names()) == {"norm", "up", "gate"}
