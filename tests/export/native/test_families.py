"""The native graph of every family computes what its portable graph does: prompts, single tokens, steps and trees."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir
import pytest
import transformers

from export.graph import GraphOptions, lower
from export.native.build import pack_native, write_native
from tests.export.filled import Runner, fill, make_model, relative
from tests.export.native.evaluate import open_native
from tests.export.test_families import FAMILIES, PARENTS, SMALL, TEXT, TREE

# One of each kind of fusion in every run; the others differ from these in nothing that is fused.
OPTIONS = {
    "qwen2": GraphOptions("int4", 32, symmetric=False),
    "qwen3": GraphOptions("int4", 64),
    "gemma3": GraphOptions("int8", 32, symmetric=False),
    "olmo2": GraphOptions("int8", 128),
}
OTHERS = [pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES if family not in OPTIONS]
TOLERANCE = 1e-5
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
}
OWN = {"MatMulPanel", "GatherPanel", "CachedAttention"}


@dataclass(frozen=True)
class Pair:
    """A family's portable graph and its native one, on the same weights."""

    graph: ir.Model
    portable: Runner
    native: Runner


@cache
def make_pair(family: str) -> Pair:
    """Lowers, quantizes and packs a small random model of ``family``."""
    kind, fields = FAMILIES[family]
    model = make_model(transformers.CONFIG_MAPPING[kind](**{**SMALL, **fields}))
    lowered = lower(model.config, OPTIONS.get(family, GraphOptions("int4", 32)))
    fill(lowered, {name: tensor.numpy() for name, tensor in model.state_dict().items()})
    for node in lowered.model.graph:
        if node.op_type == "MatMulNBits":  # activations as they are, on both sides
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 0)
    with TemporaryDirectory() as name:
        folder = Path(name)
        ir.save(lowered.model, folder / "model.onnx", external_data="model.onnx.data", size_threshold_bytes=0)
        portable = Runner.open(lowered)
        form = write_native(folder)
        assert form is not None
        assert list(form.graphs) == ["fp32", "fp16", "int8"]
        pack_native(folder)
        return Pair(ir.load(folder / "native.onnx"), portable, open_native(folder / "native.onnx"))


@pytest.fixture(params=[*OPTIONS, *OTHERS])
def pair(request: pytest.FixtureRequest) -> Pair:
    """Both with empty caches."""
    made = make_pair(request.param)
    made.native.length = made.portable.length = 0
    return made


@pytest.mark.parametrize("family", [*OPTIONS, *OTHERS])
def test_what_is_left_to_onnx_runtime(family: str) -> None:
    assert {node.op_type for node in make_pair(family).graph.graph} - {"Constant"} == LEFT[family] | OWN


def test_the_native_graph_equals_the_portable_one(pair: Pair) -> None:
    for tokens in (TEXT[:10], TEXT[10:11], TEXT[11:13]):
        assert relative(pair.native.step(tokens), pair.portable.step(tokens)) < TOLERANCE
    assert relative(pair.native.step(TREE, PARENTS), pair.portable.step(TREE, PARENTS)) < TOLERANCE


def test_only_wanted_rows_come_back(pair: Pair) -> None:
    wanted = pair.portable.step(TEXT, logits_from=15)
    got = pair.native.step(TEXT, logits_from=15)
    assert got.shape == wanted.shape
    assert relative(got, wanted) < TOLERANCE
