"""Places the weights of the native graph in the packed file: one copy of every matrix in panels, and the vectors.

A tied embedding reads the panels of the head. Two portable initializers of the same bytes are one matrix here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from export.graph.expert_functions import EXPERTS, ExpertInput
from export.graph.ir_helpers import find_nodes
from export.graph.native.operators import DOMAIN, GATHER, GatherInput, ProductInput, input_at, is_product
from export.manifest import PACKED_FILE_NAME

if TYPE_CHECKING:
    from runtime.kernels.weights.layout import MatrixLayout
    from runtime.kernels.weights.packing_table import MatrixEntry, PackingTable, TableBuilder


def place_weights(model: ir.Model, source: str, source_size: int, planes: int = 1) -> PackingTable:
    """Points all large initializers of ``model`` at the packed file; returns the table from which it is made.

    With 2 ``planes`` the halves of the codes, which have eight bits and no zero points, lie apart.
    """
    from runtime.kernels.weights.packing_table import TableBuilder

    placed = _Panels(model, TableBuilder(), planes)
    # In the order of use, so that a file is read from its beginning to its end in a step.
    for node in model.graph:
        if is_product(node):
            placed.replace(node, list(ProductInput)[1:4], 2 if "activation" in node.attributes else 1)
        elif (node.op_type, node.domain) == (EXPERTS, DOMAIN):
            placed.replace_experts(node)
    for node in find_nodes(model, GATHER, DOMAIN):
        placed.replace(node, list(GatherInput)[1:4], 1)
    for name, value in list(model.graph.initializers.items()):
        if not list(value.uses()) and not value.is_graph_input():
            del model.graph.initializers[name]
        elif isinstance(tensor := value.const_value, ir.ExternalTensor) and tensor.location == source:
            vector = placed.builder.vector(name, tensor.offset or 0, tensor.nbytes)
            value.const_value = _external(name, tensor.dtype, tensor.shape.numpy(), vector.move.target, tensor.nbytes)
    return placed.builder.finish(source, source_size)


class _Panels:
    """The matrices placed so far, by the position of their codes."""

    def __init__(self, model: ir.Model, builder: TableBuilder, planes: int) -> None:
        self.builder, self._model, self._planes = builder, model, planes
        self._known: dict[int, tuple[MatrixEntry, list[ir.Value]]] = {}

    def replace(self, node: ir.Node, slots: Sequence[int], parts: int) -> None:
        """Gives ``node`` packed initializers in ``slots``: codes, scales, zero points."""
        from runtime.kernels.weights.layout import MatrixLayout

        rows, columns, bits, size = (node.attributes[name].as_int() for name in ("N", "K", "bits", "block_size"))
        self._replace(node, slots, MatrixLayout(rows, columns, bits, size, parts, planes=self._planes))
        if self._planes != 1:
            node.attributes["planes"] = ir.AttrInt64("planes", self._planes)

    def replace_experts(self, node: ir.Node) -> None:
        """The same for the two stacks of a layer's experts."""
        from runtime.kernels.weights.layout import MatrixLayout

        sizes = (node.attributes[name].as_int() for name in ("N", "K", "bits", "block_size", "experts"))
        width, hidden, bits, size, count = sizes
        slots = list(ExpertInput)
        self._replace(node, slots[ExpertInput.GATE_UP :][:3], MatrixLayout(width, hidden, bits, size, 2, count))
        self._replace(node, slots[ExpertInput.DOWN :][:3], MatrixLayout(hidden, width, bits, size, 1, count))

    def _replace(self, node: ir.Node, slots: Sequence[int], layout: MatrixLayout) -> None:
        portable = [value for slot in slots if (value := input_at(node, slot)) is not None]
        for slot, value in zip(slots, self._packed(portable, layout), strict=False):
            node.replace_input_with(slot, value)

    def _packed(self, portable: Sequence[ir.Value], layout: MatrixLayout) -> list[ir.Value]:
        tensors = [_tensor(value) for value in portable]
        positions = [int(tensor.offset or 0) for tensor in tensors]
        if positions[0] not in self._known:
            name = str(portable[0].name).removesuffix(".codes")
            zeros = positions[2] if len(positions) == 3 else None
            matrix = self.builder.matrix(name, layout, _scale_type(tensors[1]), positions[0], positions[1], zeros)
            self._known[positions[0]] = matrix, self._initializers(matrix)
        matrix, values = self._known[positions[0]]
        assert matrix.layout == layout, f"{matrix.name} is read in two layouts"
        return values

    def _initializers(self, matrix: MatrixEntry) -> list[ir.Value]:
        from runtime.kernels.weights.packing_table import packed_sizes

        layout = matrix.layout
        scales = ir.DataType.FLOAT16 if matrix.scale_type == "fp16" else ir.DataType.FLOAT
        kinds = [
            ("codes", ir.DataType.UINT8, layout.codes_shape, matrix.codes),
            ("scales", scales, layout.scales_shape, matrix.scales),
            ("zero_points", ir.DataType.UINT8, layout.zero_points_shape, matrix.zero_points),
        ]
        values = []
        for (kind, dtype, shape, move), size in zip(kinds, packed_sizes(layout, matrix.scale_type), strict=True):
            if move is not None:
                tensor = _external(f"{matrix.name}.panels.{kind}", dtype, shape, move.target, size)
                value = ir.Value(name=tensor.name, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=tensor)
                self._model.graph.register_initializer(value)
                values.append(value)
        return values


def _tensor(value: ir.Value) -> ir.ExternalTensor:
    assert isinstance(value.const_value, ir.ExternalTensor), f"{value.name} does not lie in the data file"
    return value.const_value


def _scale_type(scales: ir.ExternalTensor) -> str:
    """The type "fp16" if it loses nothing of the scales, which the quantizers round to that end, else "fp32".

    Quantizers leave scales below float16's normal range unrounded. A few of them (in rows of tokens that no text has)
    may lose digits, as long as the loss is below float32's own precision over the whole matrix.
    """
    values = scales.numpy()
    with np.errstate(over="ignore"):
        lost = values - values.astype(np.float16).astype(np.float32)
    return "fp16" if np.linalg.norm(lost) <= np.finfo(np.float32).eps * np.linalg.norm(values) else "fp32"


def _external(name: str, dtype: ir.DataType, shape: Sequence[int], position: int, size: int) -> ir.ExternalTensor:
    return ir.ExternalTensor(PACKED_FILE_NAME, position, size, dtype, shape=ir.Shape(shape), name=name)
