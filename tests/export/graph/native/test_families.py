"""The native graph of every family computes what its portable graph does: prompts, single tokens, steps and trees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import transformers

from export.graph.native.build import pack_native, write_native
from export.graph.trace import GraphOptions, lower
from runtime.kernels.library import KernelsError, Library, open_library
from tests.export.filled import CAPACITY, Runner, fill, make_model, relative
from tests.export.graph.native.evaluate import open_native
from tests.export.graph.test_families import FAMILIES, PARENTS, SMALL, TEXT, TREE

# Every fusion in every run: the families left for later differ from these in nothing that is fused.
OPTIONS = {
    "qwen2": GraphOptions("int4", 32, symmetric=False),
    "qwen3": GraphOptions("int4", 64),
    "gemma3": GraphOptions("int8", 32, symmetric=False),
    "olmo2": GraphOptions("int8", 128),
}
QUICK = ("qwen2", "gemma3", "olmo2", "gemma4", "gpt_oss")
CHOSEN = [*QUICK, *(pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES if family not in QUICK)]
TOLERANCE = 1e-5
# Activations rounded to int8 block by block: MatMulNBits, which does so too, differs by up to 0.076 on these models.
# Caches of four bits add what they round.
ROUNDED = {"fp32": 0.09, "fp16": 0.09, "int8": 0.09, "int4": 0.5}
KV_TYPES = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8, "int4": np.uint8}
# Operators of ONNX Runtime that are left, but for Constant.
LEFT = {
    "llama": {"Shape", "Slice"},
    "qwen2": {"Shape", "Slice"},
    "qwen3": {"Shape", "Slice"},
    "mistral": {"Shape", "Slice"},
    "smollm3": {"Shape", "Slice"},
    "phi3": {"Shape", "Slice"},
    "gemma2": {"Shape", "Slice", "Add", "SimplifiedLayerNormalization", "Div", "Tanh", "Mul"},
    "gemma3": {"Shape", "Slice", "Add", "SimplifiedLayerNormalization"},
    "granite": {"Shape", "Slice", "Add", "Mul", "Div"},
    "olmo2": {"Shape", "Slice", "Add", "SimplifiedLayerNormalization", "Split", "Concat"},
    "bitnet": {"Shape", "Slice", "Split", "Relu", "Pow", "Mul"},
    "ministral3": {
        "Shape",
        "Slice",
        "Add",
        "Cast",
        "Concat",
        "Div",
        "Floor",
        "Log",
        "Mul",
        "Reshape",
        "RotaryEmbedding",
        "Split",
        "Transpose",
        "Unsqueeze",
    },
    "exaone4": {"Shape", "Slice", "Add", "SimplifiedLayerNormalization"},
    "hunyuan_v1_dense": {"Shape", "Slice", "Concat", "RotaryEmbedding", "Split"},
    "olmo3": {"Shape", "Slice", "Add", "Concat", "SimplifiedLayerNormalization", "Split"},
    "gemma4": {
        "Add",
        "Concat",
        "Div",
        "Gather",
        "Gelu",
        "Mul",
        "Pow",
        "ReduceMean",
        "Reshape",
        "Shape",
        "SimplifiedLayerNormalization",
        "Slice",
        "Split",
        "Tanh",
    },
    "qwen3_moe": {"Shape", "Slice", "Add", "Reshape", "SimplifiedLayerNormalization"},
    "mixtral": {"Shape", "Slice", "Add", "Reshape", "SimplifiedLayerNormalization"},
    "gpt_oss": {"Shape", "Slice", "Add", "Reshape", "SimplifiedLayerNormalization"},
    "gemma3n": {
        "Add",
        "And",
        "Clip",
        "Concat",
        "Div",
        "Expand",
        "Gather",
        "Gelu",
        "GreaterOrEqual",
        "Less",
        "MatMul",
        "Mul",
        "Pow",
        "Range",
        "ReduceMean",
        "Relu",
        "Reshape",
        "ScatterND",
        "Shape",
        "SimplifiedLayerNormalization",
        "SkipSimplifiedLayerNormalization",
        "Slice",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Tanh",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "Where",
    },
    "apertus": {"Shape", "Slice", "Add", "CastLike", "Div", "Exp", "Greater", "Min", "Mul", "Softplus", "Sub", "Where"},
}
OWN = {"MatMulPanel", "GatherPanel", "CachedAttention"}
EXPERTS = {"Router", "RoutedExperts"}
SPARSE = ("qwen3_moe", "mixtral", "gpt_oss")


@dataclass(frozen=True)
class Pair:
    """A family's portable graph and its native one in ``folder``, on the same weights."""

    folder: Path
    portable: Runner
    native: Runner


@pytest.fixture(scope="module")
def make_pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """Lowers, quantizes and packs a small random model of a family, once."""
    return cache(lambda family: _make_pair(family, tmp_path_factory.mktemp(family)))


def _make_pair(family: str, folder: Path) -> Pair:
    kind, fields = FAMILIES[family]
    model = make_model(transformers.CONFIG_MAPPING[kind](**{**SMALL, **fields}))
    lowered = lower(model.config, OPTIONS.get(family, GraphOptions("int4", 32)))
    fill(lowered, {name: tensor.numpy() for name, tensor in model.state_dict().items()})
    for node in lowered.model.graph:
        if node.op_type == "MatMulNBits":  # activations as they are, on both sides
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 0)
    portable = Runner.open(lowered)
    _save(lowered.model, folder)
    form = write_native(folder)
    assert form is not None
    assert list(form.graphs) == list(KV_TYPES)
    pack_native(folder)
    return Pair(folder, portable, open_native(folder / "native.onnx"))


def _save(model: ir.Model, folder: Path) -> None:
    """Writes a filled model as exports are: matrices in the data file, however small, and shapes in the graph."""
    ir.save(model, folder / "model.onnx", external_data="model.onnx.data", size_threshold_bytes=0)
    saved = ir.load(folder / "model.onnx")
    for value in saved.graph.initializers.values():
        assert value.const_value is not None
        if value.dtype == ir.DataType.INT64:
            value.const_value = ir.tensor(value.const_value.numpy().copy(), name=value.name)
    ir.save(saved, folder / "model.onnx")


@pytest.fixture(params=CHOSEN)
def pair(request: pytest.FixtureRequest, make_pair: Callable[[str], Pair]) -> Pair:
    """Both with empty caches."""
    made = make_pair(request.param)
    made.native.length = made.portable.length = 0
    return made


@pytest.fixture(scope="session")
def library() -> Library:
    """The native kernels, where they are built."""
    try:
        return open_library()
    except KernelsError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("family", CHOSEN)
def test_what_is_left_to_onnx_runtime(family: str, make_pair: Callable[[str], Pair]) -> None:
    nodes = ir.load(make_pair(family).folder / "native.onnx").graph
    experts = EXPERTS if family in SPARSE else set()
    assert {node.op_type for node in nodes} - {"Constant"} == LEFT[family] | OWN | experts


def test_the_native_graph_equals_the_portable_one(pair: Pair) -> None:
    for tokens in (TEXT[:10], TEXT[10:11], TEXT[11:13]):
        assert relative(pair.native.step(tokens), pair.portable.step(tokens)) < TOLERANCE
    assert relative(pair.native.step(TREE, PARENTS), pair.portable.step(TREE, PARENTS)) < TOLERANCE


def test_only_wanted_rows_come_back(pair: Pair) -> None:
    wanted = pair.portable.step(TEXT, logits_from=15)
    got = pair.native.step(TEXT, logits_from=15)
    assert got.shape == wanted.shape
    assert relative(got, wanted) < TOLERANCE


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_the_library_runs_the_graph(pair: Pair, library: Library, kv_type: str) -> None:
    options = onnxruntime.SessionOptions()
    library.register(options, 1)
    name = "native.onnx" if kv_type == "fp32" else f"native-{kv_type}.onnx"
    session = onnxruntime.InferenceSession(pair.folder / name, options)
    shapes = {given.name: given.shape for given in session.get_inputs() if given.name.startswith("past")}
    past = {name: np.zeros((1, shape[1], CAPACITY, shape[3]), KV_TYPES[kv_type]) for name, shape in shapes.items()}
    runner = Runner(session, past)
    for tokens, parents in ((TEXT[:10], None), (TEXT[10:13], None), (TREE, PARENTS)):
        assert relative(runner.step(tokens, parents), pair.native.step(tokens, parents)) < ROUNDED[kv_type]
