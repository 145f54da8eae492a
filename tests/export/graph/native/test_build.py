"""What is written for our kernels: bytes, KV types, shared matrices, and nothing where they cannot run."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from transformers import Qwen2Config

from export.graph.native.build import can_pack, write_native
from export.graph.native.caches import kv_types
from export.graph.native.panels import place_weights
from export.graph.recipe import AliasRecipe, LoweredGraph
from export.graph.trace import GraphOptions, lower
from export.writer.data_file import DataFile
from runtime.kernels.weights.packing_table import PackingTable, read_table


def place_all(graph: LoweredGraph, folder: Path) -> None:
    """Saves a lowered graph without weights: its data file is one long hole."""
    initializers = graph.model.graph.initializers
    data = DataFile(folder / "model.onnx.data", lambda count: None)
    shared = {recipe.name: recipe.of for recipe in graph.recipes if isinstance(recipe, AliasRecipe)}
    places = {n: data.place(v) for n, v in initializers.items() if v.const_value is None and n not in shared}
    for name, other in shared.items():
        data.place(initializers[name], places[other])
    data.finish()
    os.truncate(folder / "model.onnx.data", data.size)
    ir.save(graph.model, folder / "model.onnx")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied model with the widths of Qwen2-1.5B and one layer, in blocks of 128."""
    config = Qwen2Config(
        vocab_size=151936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=1,
        num_attention_heads=12,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    folder = tmp_path_factory.mktemp("wide")
    place_all(lower(config, GraphOptions("int4", 128)), folder)
    assert write_native(folder) is not None
    return folder


def table_of(folder: Path) -> PackingTable:
    return read_table(folder / "native.json")[0]


def test_the_packed_file_is_no_larger_than_the_int4_weights(wide: Path) -> None:
    weights = sum(
        codes.nbytes + scales.nbytes // 2
        for node in ir.load(wide / "model.onnx").graph
        if node.op_type == "MatMulNBits"
        for codes, scales in [[value.const_value for value in node.inputs[1:3]]]
    )
    assert weights < table_of(wide).size <= 1.02 * weights


def test_a_tied_embedding_reads_the_bytes_of_the_head(wide: Path) -> None:
    nodes = list(ir.load(wide / "native.onnx").graph)
    gather = next(node for node in nodes if node.op_type == "GatherPanel")
    head = next(node for node in reversed(nodes) if node.op_type == "MatMulPanel")
    assert list(gather.inputs[1:]) == list(head.inputs[1:3])
    assert len(table_of(wide).matrices) == 5


def test_every_tensor_begins_at_a_page_and_overlaps_none(wide: Path) -> None:
    tensors = [value.const_value for value in ir.load(wide / "native.onnx").graph.initializers.values()]
    spans = sorted((tensor.offset, tensor.length) for tensor in tensors if isinstance(tensor, ir.ExternalTensor))
    assert all(first % 4096 == 0 for first, _ in spans)
    assert spans[0][0] == 4096
    assert all(first + size <= second for (first, size), (second, _) in pairwise(spans))
    assert sum(spans[-1]) == table_of(wide).size


def test_graphs_of_other_kv_types_differ_in_their_caches_alone(wide: Path) -> None:
    graphs = {kind: ir.load(wide / f"native{kind}.onnx").graph for kind in ("", "-fp16", "-int8", "-int4")}
    dims = {"": 128, "-fp16": 128, "-int8": 132, "-int4": 68}
    types = {"": ir.DataType.FLOAT, "-fp16": ir.DataType.FLOAT16, "-int8": ir.DataType.INT8, "-int4": ir.DataType.UINT8}
    for kind, graph in graphs.items():
        assert [value.name for value in graph.inputs] == [value.name for value in graphs[""].inputs]
        for value in [*graph.inputs, *graph.outputs]:
            if "0.key" in value.name or "0.value" in value.name:
                assert (value.dtype, list(value.shape)[1::2]) == (types[kind], [2, dims[kind]])
        assert [node.op_type for node in graph] == [node.op_type for node in graphs[""]]


def test_scales_are_halved_only_where_that_loses_nothing(wide: Path) -> None:
    model = ir.load(wide / "model.onnx")
    nodes = [node for node in model.graph if node.op_type == "MatMulNBits"]
    size = (wide / "model.onnx.data").stat().st_size
    exact, tiny, lossy, huge = (node.inputs[2].const_value for node in nodes[:4])
    with (wide / "model.onnx.data").open("r+b") as file:
        for tensor, values in ((exact, [0.5]), (tiny, [0.5] * 500 + [1e-8]), (lossy, [0.1]), (huge, [1e6])):
            file.seek(tensor.offset)
            file.write(np.array(values, np.float32).tobytes())
    try:
        write_native(wide)
        assert [matrix.scale_type for matrix in table_of(wide).matrices][:4] == ["fp16", "fp16", "fp32", "fp32"]
    finally:
        os.truncate(wide / "model.onnx.data", 0)
        os.truncate(wide / "model.onnx.data", size)
        write_native(wide)


MATRIX = """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
agraph (float[1, s, 32] x, uint8[16, {blocks}, {bytes}] codes, float[16, {blocks}] scales) => (float[1, s, 16] y) {{
  y = com.microsoft.MatMulNBits <K = 32, N = 16, bits = {bits}, block_size = {size}> (x, codes, scales)
}}
"""


@pytest.mark.parametrize(
    ("bits", "size", "fits"),
    [(4, 32, True), (8, 128, True), (4, 16, False), (4, 256, False), (2, 32, False)],
)
def test_only_known_blocks_are_packed(bits: int, size: int, fits: bool) -> None:
    text = MATRIX.format(bits=bits, size=size, blocks=-(-32 // size), bytes=size * bits // 8)
    assert can_pack(ir.from_onnx_text(text)) == fits


ATTENTION = """<ir_version: 10, opset_import: ["" : 21, "pocketspec" : 1]>
g (float[1, s, {width}] x, float[1, 1, c, {size}] key, float[1, 1, c, {size}] value,
   int64[1, s] positions, int64[1] total) => (float[1, s, {size}] y) {{
  y, k, v = pocketspec.CachedAttention <num_heads = 1, kv_num_heads = 1> (
    x, key, value, positions, total)
}}
"""


@pytest.mark.parametrize(("size", "types"), [(18, ["fp32", "fp16", "int8", "int4"]), (19, ["fp32", "fp16", "int8"])])
def test_heads_of_an_odd_size_have_no_cache_of_four_bits(size: int, types: list[str]) -> None:
    model = ir.from_onnx_text(ATTENTION.format(size=size, width=3 * size))
    assert kv_types(model) == types


def test_nothing_is_written_for_other_weights(tmp_path: Path) -> None:
    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[2] x) => (float[2] y) { y = Relu(x) }'
    ir.save(ir.from_onnx_text(text), tmp_path / "model.onnx")
    assert write_native(tmp_path) is None
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_graph_without_anything_to_place_has_an_empty_table() -> None:
    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[2] x) => (float[2] y) { y = Relu(x) }'
    assert place_weights(ir.from_onnx_text(text), "model.onnx.data", 5).size == 4096
