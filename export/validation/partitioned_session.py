"""Runs an exported graph piece by piece, so that a check never holds all of its weights.

ONNX Runtime copies packed weights when it opens a session. Here the nodes, which are in topological order, are cut into
pieces whose initializers stay below a size. Each piece becomes a session of its own over the same data file, and values
are passed from one to the next. A graph below that size is one piece.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnx
import onnxruntime

Inputs = Mapping[str, npt.NDArray[Any]]
Values = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Partition:
    """Nodes ``first`` to ``last`` (exclusive) of a graph, the values they need, and the values they give."""

    first: int
    last: int
    needs: tuple[str, ...]
    gives: tuple[str, ...]


class PiecedGraph:
    """An exported graph, cut into pieces.

    ``max_bytes`` bounds the initializers of a piece; a single node may exceed it. ``exact`` computes block-quantized
    products in fp32 instead of with quantized activations: slower, and as close to the stored weights as fp32 allows.
    """

    def __init__(self, path: Path, max_bytes: int, exact: bool = False) -> None:
        self._folder = path.parent
        self._proto = onnx.load(path, load_external_data=False)
        self._initializers = {tensor.name: tensor for tensor in self._proto.graph.initializer}
        self.inputs = {value.name: value for value in self._proto.graph.input}
        self.outputs = tuple(value.name for value in self._proto.graph.output)
        if exact:
            _compute_in_fp32(self._proto.graph.node)
        self.pieces = self._cut(max_bytes)

    def _cut(self, max_bytes: int) -> tuple[Partition, ...]:
        nodes = self._proto.graph.node
        bounds, size, seen = [0], 0, set[str]()
        for index, node in enumerate(nodes):
            fresh = {name for name in node.input if name in self._initializers} - seen
            added = sum(_tensor_bytes(self._initializers[name]) for name in fresh)
            if size and size + added > max_bytes:
                bounds.append(index)
                size, seen = 0, set()
            size, seen = size + added, seen | fresh
        bounds.append(len(nodes))
        return tuple(self._piece(first, last) for first, last in itertools.pairwise(bounds))

    def _piece(self, first: int, last: int) -> Partition:
        nodes = self._proto.graph.node
        made = {name for node in nodes[first:last] for name in node.output if name}
        used = dict.fromkeys(name for node in nodes[first:last] for name in node.input if name)
        later = {name for node in nodes[last:] for name in node.input} | set(self.outputs)
        needs = tuple(name for name in used if name not in made and name not in self._initializers)
        return Partition(first, last, needs, tuple(name for name in made if name in later))

    def run(self, steps: Sequence[Inputs], carried: Mapping[str, str], outputs: Collection[str]) -> list[Values]:
        """``outputs`` of each step. ``carried`` maps an input to the output of the step before that it continues.

        The pieces run one after another, each through all steps, so that each is opened once. Carried inputs are given
        for the first step alone.
        """
        live: list[Values] = [dict(step) for step in steps]
        for number, piece in enumerate(self.pieces):
            session = self._open(piece, live[0])
            for index, values in enumerate(live):
                for name in set(piece.needs) & set(carried):
                    if index:
                        values[name] = live[index - 1][carried[name]]
                results = session.run(piece.gives, {name: values[name] for name in piece.needs})
                values.update(zip(piece.gives, results, strict=True))
            del session  # before the next one opens, so that only one piece is in memory
            later = set(outputs).union(*(other.needs for other in self.pieces[number + 1 :]))
            live = [{name: value for name, value in values.items() if name in later} for values in live]
        return live

    def _open(self, piece: Partition, values: Values) -> onnxruntime.InferenceSession:
        nodes = self._proto.graph.node[piece.first : piece.last]
        used = {name for node in nodes for name in node.input if name}
        model = onnx.ModelProto(
            ir_version=self._proto.ir_version,
            opset_import=self._proto.opset_import,
            functions=self._proto.functions,
        )
        model.graph.name = f"nodes {piece.first} to {piece.last}"
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(tensor for name, tensor in self._initializers.items() if name in used)
        model.graph.input.extend(self.inputs.get(name) or _value(name, values[name]) for name in piece.needs)
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in piece.gives)
        return onnxruntime.InferenceSession(model.SerializeToString(), self._options(nodes), ["CPUExecutionProvider"])

    def _options(self, nodes: Sequence[onnx.NodeProto]) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(self._folder))
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_cpu_mem_arena = False
        if not any(node.op_type == "MatMulNBits" for node in nodes):
            # Plain products run as well on the mapped file; only block-quantized ones need a packed copy.
            options.add_session_config_entry("session.disable_prepacking", "1")
        return options


def _compute_in_fp32(nodes: Sequence[onnx.NodeProto]) -> None:
    for node in nodes:
        for attribute in node.attribute:
            if node.op_type == "MatMulNBits" and attribute.name == "accuracy_level":
                attribute.i = 1


def _value(name: str, array: npt.NDArray[Any]) -> onnx.ValueInfoProto:
    """An input of the type of ``array`` and of any shape of its rank."""
    value = onnx.ValueInfoProto(name=name)
    value.type.tensor_type.elem_type = _ELEMENT_TYPES[array.dtype.name]
    for _ in array.shape:
        value.type.tensor_type.shape.dim.add()
    return value


_ELEMENT_TYPES = {
    "float32": onnx.TensorProto.FLOAT,
    "float16": onnx.TensorProto.FLOAT16,
    "int32": onnx.TensorProto.INT32,
    "int64": onnx.TensorProto.INT64,
    "uint8": onnx.TensorProto.UINT8,
    "bool": onnx.TensorProto.BOOL,
}


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    return int(np.prod(tensor.dims, dtype=np.int64)) * _ITEM_BYTES.get(tensor.data_type, 4)


_ITEM_BYTES: dict[int, int] = {
    onnx.TensorProto.UINT8: 1,
    onnx.TensorProto.INT8: 1,
    onnx.TensorProto.FLOAT16: 2,
    onnx.TensorProto.INT64: 8,
}
