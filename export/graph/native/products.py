"""Replaces MatMulNBits by MatMulPanel and GatherBlockQuantized by GatherPanel; ``panels`` places their bytes later."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from export.graph.ir_helpers import dims_of, find_nodes, input_of, substitute
from export.graph.native.operators import (
    GATHER,
    PRODUCT,
    GatherInput,
    ProductInput,
    input_at,
    make_operator,
    number_of,
    only_user,
)
from export.graph.passes import CONTRIB

_SIZES = ("K", "N", "bits", "block_size")


class PanelProducts(InPlacePass):
    """Every block-quantized product."""

    def call(self, model: ir.Model) -> PassResult:
        """Replaces the nodes; their initializers stay the portable ones."""
        nodes = list(find_nodes(model, "MatMulNBits", CONTRIB))
        for node in nodes:
            inputs = {
                ProductInput.A: node.inputs[0],
                ProductInput.CODES: node.inputs[1],
                ProductInput.SCALES: node.inputs[2],
                ProductInput.ZERO_POINTS: input_at(node, 3),
                ProductInput.BIAS: input_at(node, 5),
            }
            sizes = {name: node.attributes[name].as_int() for name in _SIZES}
            substitute(node, make_operator(PRODUCT, inputs, sizes))
        return PassResult(model, bool(nodes))


class PanelGathers(InPlacePass):
    """Every gather of block-quantized rows, with what follows it: the cut to K columns, and a constant factor."""

    def call(self, model: ir.Model) -> PassResult:
        """Replaces the nodes; their initializers stay the portable ones."""
        nodes = list(find_nodes(model, "GatherBlockQuantized", CONTRIB))
        for node in nodes:
            codes, last, attributes = input_of(node, 0), node, {}
            if (use := only_user(node.outputs[0])) is not None and use[0].op_type == "Slice":
                last = use[0]
            if (scaled := _factor(last.outputs[0])) is not None:
                last, attributes["scale"] = scaled
            inputs = {
                GatherInput.IDS: node.inputs[1],
                GatherInput.CODES: codes,
                GatherInput.SCALES: node.inputs[2],
                GatherInput.ZERO_POINTS: input_at(node, 3),
            }
            sizes = {name: node.attributes[name].as_int() for name in ("bits", "block_size")}
            sizes |= {"K": int(dims_of(last.outputs[0])[-1]), "N": int(dims_of(codes)[0])}
            substitute(last, make_operator(GATHER, inputs, {**sizes, **attributes}))
        return PassResult(model, bool(nodes))


def _factor(rows: ir.Value) -> tuple[ir.Node, float] | None:
    """The product of ``rows`` with a constant number, if nothing else reads them."""
    use = only_user(rows)
    if use is None or use[0].op_type != "Mul":
        return None
    factor = number_of(input_of(use[0], 1 - use[1]))
    return None if factor is None else (use[0], factor)
