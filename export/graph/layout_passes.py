"""Passes that remove the Reshapes and Transposes that torch leaves behind and the operators do not need."""

from __future__ import annotations

from collections import defaultdict

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from export.graph.ir_helpers import (
    LAST_AXIS_NORM,
    dims_of,
    find_nodes,
    input_of,
    integers,
    known_dims,
    redirect,
)


class ConstantShapes(InPlacePass):
    """Gives every Reshape with at most one symbolic dimension a constant shape, which no step has to compute."""

    def call(self, model: ir.Model) -> PassResult:
        """Replaces the second input."""
        modified = False
        for node in find_nodes(model, "Reshape"):
            dims = known_dims(node.outputs[0])
            if dims is not None and sum(not isinstance(dim, int) for dim in dims) <= 1:
                numbers = [dim if isinstance(dim, int) else -1 for dim in dims]
                node.replace_input_with(1, integers(model, numbers))
                node.attributes.pop("allowzero", None)
                modified = True
        return PassResult(model, modified)


class CancelLayouts(InPlacePass):
    """Removes Reshapes and Transposes that undo each other, or follow one another.

    ``[1, S, 128] -> [1, S, 4, 32] -> [1, 4, S, 32] -> [1, S, 4, 32] -> [1, S, 128]`` becomes nothing at all.
    """

    def call(self, model: ir.Model) -> PassResult:
        """One sweep in topological order is enough: users of a cancelled node come later in it."""
        modified = False
        for node in list(model.graph):
            if node.op_type == "Transpose" and node.domain == "":
                modified |= _merge_transpose(node)
            elif node.op_type == "Reshape" and node.domain == "":
                modified |= _merge_reshape(node)
        return PassResult(model, modified)


class SinkTransposes(InPlacePass):
    """Moves a Transpose that keeps the last axis behind a norm over that axis, where a later one may cancel it."""

    def call(self, model: ir.Model) -> PassResult:
        """Norm(Transpose(x)) becomes Transpose(Norm(x)), if nothing else reads the transposed value."""
        modified = False
        for norm in find_nodes(model, LAST_AXIS_NORM):
            value = norm.inputs[0]
            transpose = value.producer() if value is not None else None
            if transpose is None or transpose.op_type != "Transpose" or len(list(transpose.outputs[0].uses())) != 1:
                continue
            order, source = _order(transpose), transpose.inputs[0]
            if order[-1] != len(order) - 1 or source is None:
                continue
            output, users = norm.outputs[0], list(norm.outputs[0].uses())
            norm.replace_input_with(0, source)
            again = ir.node("Transpose", [output], {"perm": order})
            again.outputs[0].shape, again.outputs[0].type = ir.Shape(dims_of(output)), output.type
            output.shape = ir.Shape(dims_of(source))
            model.graph.insert_after(norm, again)
            redirect(output, again.outputs[0], users)
            modified = True
        return PassResult(model, modified)


class SinkElementwise(InPlacePass):
    """Moves Transposes behind what works element by element, or cuts an axis: products, sums, Splits."""

    def call(self, model: ir.Model) -> PassResult:
        """In topological order, so that a Transpose sinks through all that follow one another."""
        modified = False
        for node in list(model.graph):
            sources = [_transposed(value) for value in node.inputs[: 1 if node.op_type == "Split" else 2]]
            if node.domain or node.op_type not in ("Mul", "Add", "Split") or None in sources:
                continue
            orders = [_order(each) for each in sources if each is not None]
            if any(order != orders[0] for order in orders):
                continue
            _sink(node, [input_of(each, 0) for each in sources if each is not None], orders[0])
            modified = True
        return PassResult(model, modified)


class SplitSlices(InPlacePass):
    """Replaces slices that cut a value along its last axis into all its parts (q, k, v of one matrix) by one Split."""

    def call(self, model: ir.Model) -> PassResult:
        """Replaces the slices of a value if together, in order, they are the whole of it."""
        groups: dict[int, list[ir.Node]] = defaultdict(list)
        for node in find_nodes(model, "Slice"):
            groups[id(node.inputs[0])].append(node)
        modified = False
        for nodes in groups.values():
            source = input_of(nodes[0], 0)
            width = (known_dims(source) or ["unknown"])[-1]
            bounds = [_last_axis_bounds(node) for node in nodes]
            if len(nodes) == 1 or not isinstance(width, int) or None in bounds:
                continue
            order = sorted(range(len(nodes)), key=lambda index: bounds[index] or (0, 0))
            cuts = [bounds[index] or (0, 0) for index in order]
            ends = [min(end, width) for _, end in cuts]
            if [first for first, _ in cuts] != [0, *ends[:-1]] or ends[-1] != width:
                continue
            sizes = integers(model, [end - first for (first, _), end in zip(cuts, ends, strict=True)])
            split = ir.node("Split", [source, sizes], {"axis": -1}, num_outputs=len(nodes))
            model.graph.insert_before(min(nodes, key=list(model.graph).index), split)
            for index, part in zip(order, split.outputs, strict=True):
                old = nodes[index].outputs[0]
                part.shape, part.type = old.shape, old.type
                redirect(old, part)
            model.graph.remove(nodes, safe=True)
            modified = True
        return PassResult(model, modified)


def _last_axis_bounds(node: ir.Node) -> tuple[int, int] | None:
    """First and last (exclusive) of a Slice with constant bounds along the last axis alone."""
    constants = [None if value is None else value.const_value for value in node.inputs[1:]]
    numbers = [None if tensor is None else tensor.numpy().tolist() for tensor in constants]
    dims = known_dims(input_of(node, 0))
    if len(numbers) != 4 or dims is None or numbers[3] != [1] or numbers[2] not in ([-1], [len(dims) - 1]):
        return None
    first, last = numbers[0], numbers[1]
    return (first[0], last[0]) if first and last and 0 <= first[0] <= last[0] else None


def _transposed(value: ir.Value | None) -> ir.Node | None:
    """The Transpose that makes ``value``."""
    node = None if value is None else value.producer()
    return node if node is not None and (node.op_type, node.domain) == ("Transpose", "") else None


def _sink(node: ir.Node, sources: list[ir.Value], order: list[int]) -> None:
    """Lets ``node`` read ``sources``, which were transposed by ``order``, and transposes its outputs instead."""
    for index, source in enumerate(sources):
        node.replace_input_with(index, source)
    if node.op_type == "Split":
        axis = node.attributes["axis"].as_int()
        node.attributes["axis"] = ir.AttrInt64("axis", order[axis % len(order)])
    for output in node.outputs:
        dims, users = dims_of(output), list(output.uses())
        again = ir.node("Transpose", [output], {"perm": order})
        again.outputs[0].shape, again.outputs[0].type = output.shape, output.type
        output.shape = ir.Shape([dims[order.index(axis)] for axis in range(len(order))])
        assert node.graph is not None
        node.graph.insert_after(node, again)
        redirect(output, again.outputs[0], users)


def _order(transpose: ir.Node) -> list[int]:
    return list(transpose.attributes["perm"].as_ints())


def _merge_transpose(node: ir.Node) -> bool:
    """Transpose of a Transpose: one of the combined order, or none if that is the identity."""
    source = input_of(node, 0)
    first = source.producer()
    if first is None or (first.op_type, first.domain) != ("Transpose", ""):
        return False
    order = [_order(first)[axis] for axis in _order(node)]
    if order == sorted(order) and not node.outputs[0].is_graph_output():
        redirect(node.outputs[0], input_of(first, 0))
    else:
        node.replace_input_with(0, input_of(first, 0))
        node.attributes["perm"] = ir.AttrInt64s("perm", order)
    return True


def _merge_reshape(node: ir.Node) -> bool:
    """Reshape of a Reshape: the second alone, or none if it makes the shape that was there before."""
    source, modified = input_of(node, 0), False
    first = source.producer()
    if first is not None and (first.op_type, first.domain) == ("Reshape", ""):
        node.replace_input_with(0, source := input_of(first, 0))
        modified = True
    same = known_dims(source) is not None and known_dims(source) == known_dims(node.outputs[0])
    if same and not node.outputs[0].is_graph_output():
        redirect(node.outputs[0], source)
        modified = True
    return modified
