"""Fuses gate and up, halves of one product, with the gate's activation and their product: one gated product."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from export.graph.ir_helpers import dims_of, input_of, substitute
from export.graph.native.operators import PRODUCT, ProductInput, input_at, make_operator, only_user, products
from export.graph.passes import CONTRIB


class FuseGates(InPlacePass):
    """Mul(activation(gate), up), with gate and up the halves of a product, becomes a gated product."""

    def call(self, model: ir.Model) -> PassResult:
        """The product must have neither bias nor residual, and gate and up no other reader."""
        modified = False
        for node in products(model):
            if input_at(node, ProductInput.BIAS) is not None or input_at(node, ProductInput.RESIDUAL) is not None:
                continue
            found = _find_gate(node)
            if found is not None:
                mul, activation = found
                attributes = {name: attribute.value for name, attribute in node.attributes.items()}
                attributes |= {"N": node.attributes["N"].as_int() // 2, "activation": activation}
                inputs = {slot: input_at(node, slot) for slot in ProductInput}
                substitute(mul, make_operator(PRODUCT, inputs, attributes))
                modified = True
        return PassResult(model, modified)


def _find_gate(node: ir.Node) -> tuple[ir.Node, str] | None:
    """The Mul that ends the pattern behind a product, and the name of its activation."""
    split = _reader(node.outputs[0], "Split")
    if split is None or len(split.outputs) != 2:
        return None
    gate, up = split.outputs
    if dims_of(gate)[-1] != dims_of(up)[-1] or split.attributes["axis"].as_int() not in (-1, len(dims_of(gate)) - 1):
        return None
    use = only_user(gate)
    activation = None if use is None else activation_of(use[0])
    mul = None if use is None or activation is None else _reader(use[0].outputs[0], "Mul")
    if mul is None or activation is None or only_user(up) is None or up not in (input_of(mul, 0), input_of(mul, 1)):
        return None
    return mul, activation


def activation_of(node: ir.Node) -> str | None:
    """The name that our products have for the activation a node computes."""
    if (node.op_type, node.domain) == ("QuickGelu", CONTRIB) and node.attributes["alpha"].as_float() == 1:
        return "silu"
    if (node.op_type, node.domain) == ("Gelu", "") and "approximate" in node.attributes:
        return "gelu_tanh" if node.attributes["approximate"].as_string() == "tanh" else None
    return None


def _reader(value: ir.Value, op_type: str) -> ir.Node | None:
    use = only_user(value)
    return use[0] if use is not None and (use[0].op_type, use[0].domain) == (op_type, "") else None
