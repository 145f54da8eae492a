"""Fuses layers with states with what surrounds them: splits before them, the rule of their decays, gated norms behind.

``ShortConvolution`` and ``LinearRecurrence`` read parts of wider rows in place. A recurrence makes decays and rates of
what a product gives, and ends with the norm of every head and the gate of its columns.
"""

from __future__ import annotations

from enum import IntEnum
from itertools import accumulate
from typing import NamedTuple

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from export.graph.ir_helpers import LAST_AXIS_NORM, dims_of, find_nodes, input_of, redirect
from export.graph.native.gates import activation_of
from export.graph.native.operators import DOMAIN, give_input, input_at, number_of, only_user
from export.graph.state_functions import CONVOLUTION, RECURRENCE


class RecurrenceInput(IntEnum):
    """Inputs of LinearRecurrence; RATE and those from DECAY_BIAS on may be missing."""

    QUERY = 0
    KEY = 1
    VALUE = 2
    DECAY = 3
    RATE = 4
    BASE = 5
    UPDATES = 6
    REPLAY = 7
    DECAY_BIAS = 8
    DECAY_RATE = 9
    GATE = 10
    GAIN = 11


# Attributes that say where in the rows of an input its part begins.
_STARTS = {
    RecurrenceInput.QUERY: "query_start",
    RecurrenceInput.KEY: "key_start",
    RecurrenceInput.VALUE: "value_start",
    RecurrenceInput.DECAY: "decay_start",
    RecurrenceInput.RATE: "rate_start",
    RecurrenceInput.GATE: "gate_start",
}
# Beyond it, torch's softplus is x itself; in float32 both are the same.
_THRESHOLD = 20.0


class _Softened(NamedTuple):
    """A log decay: ``rate * softplus(x + bias)``."""

    x: ir.Value
    bias: ir.Value
    rate: ir.Value


class FuseStates(InPlacePass):
    """Every convolution and recurrence takes over what it can."""

    def call(self, model: ir.Model) -> PassResult:
        """Changes inputs and attributes; what nobody reads any more is left for the pass that removes unused nodes."""
        modified = False
        for node in find_nodes(model, CONVOLUTION, DOMAIN):
            modified |= _fuse_products(node) or _read_part(node, 0, "start")
        for node in find_nodes(model, RECURRENCE, DOMAIN):
            modified |= _fuse_decay(node)
            modified |= _fuse_rate(node)
            modified |= _fuse_gate(node)
            for slot, name in _STARTS.items():
                modified |= _read_part(node, slot, name)
        return PassResult(model, modified)


def _fuse_products(node: ir.Node) -> bool:
    """Takes over the products of x before a convolution and behind it, if all factors are parts of one value."""
    before, after = _made_by(input_of(node, 0), "Mul"), _reader(node.outputs[0], "Mul")
    if before is None or after is None or only_user(before.outputs[0]) is None:
        return False
    gate = next(value for value in after.inputs if value is not node.outputs[0])
    parts = [_part(value) for value in (*before.inputs, gate) if value is not None]
    found = [part for part in parts if part is not None]
    if len(found) < 3 or len({id(source) for source, _ in found}) > 1:
        return False
    node.replace_input_with(0, found[0][0])
    for name, (_, start) in zip(("start", "factor_start", "gate_start"), found, strict=True):
        node.attributes[name] = ir.AttrInt64(name, start)
    redirect(after.outputs[0], node.outputs[0])
    return True


def _read_part(node: ir.Node, slot: int, attribute: str) -> bool:
    """Lets ``node`` read a part of what a Split along the last axis takes apart."""
    value = input_at(node, slot)
    part = None if value is None else _part(value)
    if part is None:
        return False
    node.replace_input_with(slot, part[0])
    node.attributes[attribute] = ir.AttrInt64(attribute, part[1])
    return True


def _part(value: ir.Value) -> tuple[ir.Value, int] | None:
    """What a value is split from, along the last of three axes, and at which column it begins."""
    split = _made_by(value, "Split")
    if split is None or split.attributes["axis"].as_int() not in (-1, 2):
        return None
    if any(part.shape is None or len(part.shape) != 3 for part in split.outputs):
        return None
    widths = [dims_of(part)[-1] for part in split.outputs]
    if not all(isinstance(width, int) for width in widths):
        return None
    start = [0, *accumulate(int(width) for width in widths)][list(split.outputs).index(value)]
    return input_of(split, 0), start


def _fuse_decay(node: ir.Node) -> bool:
    found = _softened(input_of(node, RecurrenceInput.DECAY))
    if found is None:
        return False
    node.replace_input_with(RecurrenceInput.DECAY, found.x)
    give_input(node, RecurrenceInput.DECAY_BIAS, found.bias)
    give_input(node, RecurrenceInput.DECAY_RATE, found.rate)
    return True


def _fuse_rate(node: ir.Node) -> bool:
    rate = input_at(node, RecurrenceInput.RATE)
    sigmoid = None if rate is None else _made_by(rate, "Sigmoid")
    if sigmoid is None:
        return False
    node.replace_input_with(RecurrenceInput.RATE, input_of(sigmoid, 0))
    node.attributes["rate_sigmoid"] = ir.AttrInt64("rate_sigmoid", 1)
    return True


def _fuse_gate(node: ir.Node) -> bool:
    """Takes over Mul(norm(heads of y), silu(heads of gate)), if the gain is for one head and nobody else reads y."""
    size = dims_of(input_of(node, RecurrenceInput.BASE))[-1]
    heads = _reader(node.outputs[0], "Reshape")
    norm = None if heads is None else _reader(heads.outputs[0], LAST_AXIS_NORM)
    product = None if norm is None else _reader(norm.outputs[0], "Mul")
    flat = None if product is None else _reader(product.outputs[0], "Reshape")
    if norm is None or product is None or flat is None or dims_of(input_of(norm, 1)) != [size]:
        return False
    other = next(value for value in product.inputs if value is not norm.outputs[0])
    opened = None if other is None else other.producer()
    gate = None if opened is None or activation_of(opened) != "silu" else _made_by(input_of(opened, 0), "Reshape")
    if gate is None or norm.attributes["axis"].as_int() != -1:
        return False
    if any(_last(value) != _last(node.outputs[0]) for value in (input_of(gate, 0), flat.outputs[0])):
        return False
    give_input(node, RecurrenceInput.GATE, input_of(gate, 0))
    give_input(node, RecurrenceInput.GAIN, input_of(norm, 1))
    node.attributes["gate_epsilon"] = ir.AttrFloat32("gate_epsilon", norm.attributes["epsilon"].as_float())
    redirect(flat.outputs[0], node.outputs[0])
    return True


def _softened(value: ir.Value) -> _Softened | None:
    """The parts of a log decay, if it is a vector's product with the softplus of a sum of rows and a vector."""
    product = _made_by(value, "Mul")
    if product is None:
        return None
    for rate, soft in (tuple(product.inputs), tuple(reversed(product.inputs))):
        total = None if soft is None else _softplus_of(soft)
        add = None if total is None else _made_by(total, "Add")
        if add is None or rate is None:
            continue
        for x, bias in (tuple(add.inputs), tuple(reversed(add.inputs))):
            if x is not None and bias is not None and _is_vector(bias, value) and _is_vector(rate, value):
                return _Softened(x, bias, rate)
    return None


def _softplus_of(value: ir.Value) -> ir.Value | None:
    """x of ``Softplus(x)``, as an operator or as torch's exporter writes it: with a factor of 1 and a threshold."""
    if (soft := _made_by(value, "Softplus")) is not None:
        return input_of(soft, 0)
    where = _made_by(value, "Where")
    if where is None:
        return None
    x, above = input_of(where, 1), _made_by(input_of(where, 0), "Greater")
    divided = _made_by(input_of(where, 2), "Div")
    soft = None if divided is None else _made_by(input_of(divided, 0), "Softplus")
    scaled = None if soft is None else _made_by(input_of(soft, 0), "Mul")
    if above is None or divided is None or scaled is None or input_of(scaled, 0) is not x:
        return None
    numbers = [_number(input_of(node, 1)) for node in (scaled, divided, above)]
    same = input_of(above, 0) is input_of(soft, 0) if soft is not None else False
    return x if same and numbers == [1.0, 1.0, _THRESHOLD] else None


def _number(value: ir.Value) -> float | None:
    """A constant number, perhaps behind a CastLike."""
    cast = _made_by(value, "CastLike")
    return number_of(value if cast is None else input_of(cast, 0))


def _is_vector(value: ir.Value, rows: ir.Value) -> bool:
    """Whether a value has one number for each column of ``rows``, and is made of constants alone."""
    node = value.producer()
    if node is not None:
        return node.op_type in ("Neg", "Exp") and _is_vector(input_of(node, 0), rows)
    return value.const_value is not None and value.shape is not None and dims_of(value) == [_last(rows)]


def _last(value: ir.Value) -> int | str | None:
    return None if value.shape is None else dims_of(value)[-1]


def _made_by(value: ir.Value, op_type: str) -> ir.Node | None:
    node = value.producer()
    return node if node is not None and (node.op_type, node.domain) == (op_type, "") else None


def _reader(value: ir.Value, op_type: str) -> ir.Node | None:
    use = only_user(value)
    return use[0] if use is not None and (use[0].op_type, use[0].domain) == (op_type, "") else None
