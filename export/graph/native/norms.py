"""Fuses RMS norms into the products that read them, and residual sums into the products whose results they add.

ONNX Runtime's SkipSimplifiedLayerNormalization is a sum and a norm. In the native graph the product before it ends with
the sum, and the product after it begins with the norm.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from export.graph.ir_helpers import LAST_AXIS_NORM, dims_of, find_nodes, input_of, known_dims, redirect, substitute
from export.graph.native.operators import ProductInput, give_input, input_at, is_product, only_user
from export.graph.passes import CONTRIB

_SKIP_NORM = "SkipSimplifiedLayerNormalization"


class SplitSkipNorms(InPlacePass):
    """SkipSimplifiedLayerNormalization becomes an Add and a norm where a product can take over one of them."""

    def call(self, model: ir.Model) -> PassResult:
        """Replaces those with three inputs; no product can take a fourth, the bias."""
        modified = False
        for node in find_nodes(model, _SKIP_NORM, CONTRIB):
            terms = [input_of(node, 0), input_of(node, 1)]
            if len(node.inputs) != 3 or not (any(map(takes_residual, terms)) or reading_products(node.outputs[0])):
                continue
            attributes = {"axis": -1, "epsilon": node.attributes["epsilon"].as_float(), "stash_type": 1}
            add = ir.node("Add", terms)
            norm = ir.node(LAST_AXIS_NORM, [add.outputs[0], input_of(node, 2)], attributes)
            total = node.outputs[3] if len(node.outputs) == 4 else None
            add.outputs[0].shape, add.outputs[0].type = terms[0].shape, terms[0].type
            model.graph.insert_before(node, add)
            if total is not None:
                redirect(total, add.outputs[0])
            substitute(node, norm)
            modified = True
        return PassResult(model, modified)


class FuseResiduals(InPlacePass):
    """Add(x, product) becomes a product that adds x last, in the place of the Add, where x is already computed."""

    def call(self, model: ir.Model) -> PassResult:
        """Both terms must have one shape; the product must have no other user, no residual and no activation."""
        modified = False
        for add in find_nodes(model, "Add"):
            first, second = input_of(add, 0), input_of(add, 1)
            if known_dims(first) is None or known_dims(first) != known_dims(second):
                continue
            for product, residual in ((second, first), (first, second)):
                if takes_residual(product):
                    self._fuse(add, product, residual)
                    modified = True
                    break
        return PassResult(model, modified)

    @staticmethod
    def _fuse(add: ir.Node, product: ir.Value, residual: ir.Value) -> None:
        node = product.producer()
        assert node is not None
        assert node.graph is not None
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        fused = ir.node(node.op_type, list(node.inputs), attributes, domain=node.domain, version=1)
        give_input(fused, ProductInput.RESIDUAL, residual)
        substitute(add, fused)
        node.graph.remove(node, safe=True)


class FuseGains(InPlacePass):
    """A norm that only products read (perhaps behind a choice of rows) becomes their gain."""

    def call(self, model: ir.Model) -> PassResult:
        """Every product computes the norm anew, which costs less than storing it in between."""
        modified = False
        for norm in find_nodes(model, LAST_AXIS_NORM):
            x, gain, normed = input_of(norm, 0), input_of(norm, 1), norm.outputs[0]
            readers = reading_products(normed)
            if not readers or norm.attributes["axis"].as_int() != -1 or len(dims_of(gain)) != 1:
                continue
            for product in readers:
                give_input(product, ProductInput.GAIN, gain)
                product.attributes["epsilon"] = ir.AttrFloat32("epsilon", norm.attributes["epsilon"].as_float())
            redirect(normed, x)
            assert norm.graph is not None
            norm.graph.remove(norm, safe=True)
            modified = True
        return PassResult(model, modified)


def takes_residual(value: ir.Value) -> bool:
    """Whether a product makes ``value`` for one reader alone, and can add something to it."""
    node = value.producer()
    if node is None or not is_product(node) or only_user(value) is None:
        return False
    return input_at(node, ProductInput.RESIDUAL) is None and "activation" not in node.attributes


def reading_products(value: ir.Value) -> list[ir.Node]:
    """The products that read ``value`` as their rows, if nothing else does and none has a gain yet; else none."""
    readers = list(_readers(value))
    if value.is_graph_output() or not all(is_product(node) and slot == ProductInput.A for node, slot in readers):
        return []
    nodes = [node for node, _ in readers]
    return nodes if all(input_at(node, ProductInput.GAIN) is None for node in nodes) else []


def _readers(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """The readers of ``value``, also behind a choice of rows, which norms can be exchanged with."""
    for node, slot in value.uses():
        if node.op_type == "Slice" and slot == 0 and _cuts_rows(node):
            yield from _readers(node.outputs[0])
        else:
            yield node, slot


def _cuts_rows(node: ir.Node) -> bool:
    axes = input_at(node, 3)
    dims = known_dims(input_of(node, 0))
    constant = None if axes is None else ir.convenience.get_const_tensor(axes)
    if constant is None or dims is None or node.outputs[0].is_graph_output():
        return False
    return all(axis % len(dims) != len(dims) - 1 for axis in constant.numpy().tolist())
