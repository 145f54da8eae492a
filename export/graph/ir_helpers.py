"""Functions with which passes read and rewire onnx_ir graphs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

LAST_AXIS_NORM = "SimplifiedLayerNormalization"


def find_nodes(model: ir.Model, op_type: str, domain: str = "") -> Iterator[ir.Node]:
    """The nodes of one operator; the graph may change during the iteration."""
    return (node for node in list(model.graph) if (node.op_type, node.domain) == (op_type, domain))


def input_of(node: ir.Node, index: int) -> ir.Value:
    """An input of a node that must have it."""
    value = node.inputs[index]
    assert value is not None, f"{node.name} lacks input {index}"
    return value


def dims_of(value: ir.Value) -> list[int | str]:
    """A shape as numbers and names."""
    assert value.shape is not None, f"{value.name} has no shape"
    return [dim if isinstance(dim, int) else str(dim) for dim in value.shape]


def known_dims(value: ir.Value) -> list[int | str] | None:
    """A shape, or None where the exporter left it open."""
    return None if value.shape is None else dims_of(value)


def integers(model: ir.Model, numbers: Sequence[int]) -> ir.Value:
    """A small int64 initializer with these numbers, shared by all its users."""
    name = "integers." + "_".join(map(str, numbers))
    if name not in model.graph.initializers:
        tensor = ir.tensor(np.array(numbers, np.int64), name=name)
        value = ir.Value(
            name=name, shape=ir.Shape([len(numbers)]), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        model.graph.register_initializer(value)
    return model.graph.initializers[name]


def redirect(old: ir.Value, new: ir.Value, uses: Iterable[Any] | None = None) -> None:
    """Lets the users of ``old`` (all, or ``uses``) read ``new``; a graph output keeps its name."""
    for node, index in list(old.uses() if uses is None else uses):
        node.replace_input_with(index, new)
    if old.is_graph_output():
        assert old.graph is not None
        outputs, name = old.graph.outputs, old.name
        outputs[list(outputs).index(old)] = new
        old.name, new.name = f"{name}.before", name


def substitute(node: ir.Node, *nodes: ir.Node) -> None:
    """Puts ``nodes`` in the place of ``node``; the last one's output takes over its users, shape and type."""
    old, new = node.outputs[0], nodes[-1].outputs[0]
    new.shape, new.type = old.shape, old.type
    assert node.graph is not None
    node.graph.insert_before(node, nodes)
    redirect(old, new)
    node.graph.remove(node, safe=True)
