"""Lowered graphs in files, so that processes of one run of the tests share them: torch takes seconds for every one."""

from __future__ import annotations

import pickle
from pathlib import Path

import onnx
import onnx_ir as ir

from export.graph.recipe import LoweredGraph

_NOWHERE = "nowhere"


def save_graph(graph: LoweredGraph, folder: Path) -> None:
    """The model, whose initializers without a value get one that lies nowhere, and the recipes."""
    model = graph.model.clone()
    for name, value in model.graph.initializers.items():
        if value.const_value is None:
            value.const_value = ir.ExternalTensor(_NOWHERE, 0, 0, value.dtype, shape=value.shape, name=name)
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(ir.to_proto(model).SerializeToString())
    (folder / "recipes").write_bytes(pickle.dumps(graph.recipes))


def load_graph(folder: Path) -> LoweredGraph:
    """What was saved, its initializers without values again."""
    model = ir.from_proto(onnx.ModelProto.FromString((folder / "model.onnx").read_bytes()))
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = None
    return LoweredGraph(model, pickle.loads((folder / "recipes").read_bytes()))
