"""The operators of domain ``pocketspec`` as nodes of a graph: names of their inputs, and functions that make them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Any

import onnx_ir as ir

from export.graph.ir_helpers import find_nodes

DOMAIN = "pocketspec"
PRODUCT, GATHER, ATTENTION = "MatMulPanel", "GatherPanel", "CachedAttention"


class ProductInput(IntEnum):
    """Inputs of MatMulPanel; those from ZERO_POINTS on may be missing."""

    A = 0
    CODES = 1
    SCALES = 2
    ZERO_POINTS = 3
    BIAS = 4
    GAIN = 5
    RESIDUAL = 6


class GatherInput(IntEnum):
    """Inputs of GatherPanel; ZERO_POINTS may be missing."""

    IDS = 0
    CODES = 1
    SCALES = 2
    ZERO_POINTS = 3


def make_operator(
    op_type: str, inputs: Mapping[Any, ir.Value | None], attributes: Mapping[str, Any], num_outputs: int = 1
) -> ir.Node:
    """A node with the given inputs, by slot."""
    given = {slot: value for slot, value in inputs.items() if value is not None}
    values = [given.get(slot) for slot in range(max(given) + 1)]
    return ir.node(op_type, values, attributes, domain=DOMAIN, num_outputs=num_outputs, version=1)


def input_at(node: ir.Node, slot: int) -> ir.Value | None:
    """The input in a slot, None where it is missing."""
    return node.inputs[slot] if slot < len(node.inputs) else None


def give_input(node: ir.Node, slot: int, value: ir.Value) -> None:
    """Puts ``value`` into a slot, which may have been missing."""
    node.resize_inputs(max(slot + 1, len(node.inputs)))
    node.replace_input_with(slot, value)


def products(model: ir.Model) -> Iterator[ir.Node]:
    """The products of a graph, in order."""
    return find_nodes(model, PRODUCT, DOMAIN)


def is_product(node: ir.Node | None) -> bool:
    """Whether a node is one of our products."""
    return node is not None and (node.op_type, node.domain) == (PRODUCT, DOMAIN)


def only_user(value: ir.Value) -> tuple[ir.Node, int] | None:
    """The single node that reads a value, and at which input; None if there are more, or it is a graph output."""
    uses = list(value.uses())
    return (uses[0].node, uses[0].idx) if len(uses) == 1 and not value.is_graph_output() else None


def number_of(value: ir.Value) -> float | None:
    """A constant number, from an initializer or a Constant."""
    tensor = ir.convenience.get_const_tensor(value)
    return float(tensor.numpy().reshape(())) if tensor is not None and tensor.size == 1 else None
