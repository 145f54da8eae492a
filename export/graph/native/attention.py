"""Fuses attention with what surrounds it: the split of q, k and v, norms per head, rotary embeddings, bias and window.

``CachedAttention`` takes the product of q, k and v as one tensor. So the fusion goes back from the portable operator to
that product, step by step: rotary embeddings of queries and keys, then a norm per head of either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from export.graph.ir_helpers import LAST_AXIS_NORM, dims_of, find_nodes, input_of, known_dims, redirect
from export.graph.lowering.attention import MASKED
from export.graph.native.operators import ATTENTION, input_at, make_operator, number_of
from export.graph.passes import CONTRIB


class AttentionInput(IntEnum):
    """Inputs of CachedAttention; those from COS on may be missing."""

    QKV = 0
    PAST_KEY = 1
    PAST_VALUE = 2
    POSITION_IDS = 3
    TOTAL = 4
    COS = 5
    SIN = 6
    TREE_BIAS = 7
    Q_GAIN = 8
    K_GAIN = 9
    SINKS = 10


@dataclass(frozen=True)
class _Norm:
    """A norm over the values of every head."""

    source: ir.Value
    gain: ir.Value
    epsilon: float


@dataclass(frozen=True)
class _Bias:
    """The parts of a step's bias: a tree's, and a window (0: none)."""

    tree: ir.Value | None
    window: int


class CacheAttention(InPlacePass):
    """GroupQueryAttention becomes CachedAttention wherever its bias is one that CachedAttention can take."""

    def call(self, model: ir.Model) -> PassResult:
        """Replaces the attentions that have no other inputs; the rest stays."""
        modified = False
        for node in find_nodes(model, "GroupQueryAttention", CONTRIB):
            total, bias = _total(node), find_bias(input_at(node, 10))
            extra = [slot for slot in (7, 8, 9) if input_at(node, slot) is not None]
            if total is not None and bias is not None and not extra:
                self._replace(model, node, total, bias)
                modified = True
        return PassResult(model, modified)

    def _replace(self, model: ir.Model, node: ir.Node, total: ir.Value, bias: _Bias) -> None:
        heads, kv_heads = (node.attributes[name].as_int() for name in ("num_heads", "kv_num_heads"))
        size = int(dims_of(input_of(node, 3))[-1])
        attributes: dict[str, Any] = {"num_heads": heads, "kv_num_heads": kv_heads, "window": bias.window}
        attributes["scale"] = node.attributes["scale"].as_float() if "scale" in node.attributes else size**-0.5
        attributes["softcap"] = node.attributes["softcap"].as_float() if "softcap" in node.attributes else 0.0
        inputs: dict[int, ir.Value | None] = {
            AttentionInput.PAST_KEY: node.inputs[3],
            AttentionInput.PAST_VALUE: node.inputs[4],
            AttentionInput.POSITION_IDS: _graph_input(model, "position_ids"),
            AttentionInput.TOTAL: total,
            AttentionInput.TREE_BIAS: bias.tree,
            AttentionInput.SINKS: input_at(node, 11),
        }
        # Without present keys and values, the cache is another layer's, which has put the step's rows into it.
        shared = len(node.outputs) == 1
        heads_of = [input_of(node, index) for index in range(1 if shared else 2)]
        rotary = _rotaries(heads_of)
        if rotary:
            heads_of = [input_of(part, 0) for part in rotary]
            inputs |= {AttentionInput.COS: rotary[0].inputs[2], AttentionInput.SIN: rotary[0].inputs[3]}
            attributes["interleaved"] = rotary[0].attributes["interleaved"].as_int()
            attributes["rotary_dim"] = rotary[0].attributes["rotary_embedding_dim"].as_int()
        norms = [_norm_of(part, size) for part in heads_of]
        if len({norm.epsilon for norm in norms if norm is not None}) <= 1:
            heads_of = [part if norm is None else norm.source for part, norm in zip(heads_of, norms, strict=True)]
            for slot, norm in zip((AttentionInput.Q_GAIN, AttentionInput.K_GAIN), norms, strict=False):
                if norm is not None:
                    inputs[slot], attributes["epsilon"] = norm.gain, norm.epsilon
        if shared:
            inputs[AttentionInput.QKV], attributes["shared"] = heads_of[0], 1
        else:
            inputs[AttentionInput.QKV] = _joined(node, *heads_of, input_of(node, 2))
        attention = make_operator(ATTENTION, inputs, attributes, num_outputs=len(node.outputs))
        model.graph.insert_before(node, attention)
        for old, new in zip(node.outputs, attention.outputs, strict=True):
            new.shape, new.type = old.shape, old.type
            redirect(old, new)
        model.graph.remove(node, safe=True)


def find_bias(value: ir.Value | None) -> _Bias | None:
    """The parts of a portable attention's bias; None if it is something else."""
    if value is None:
        return _Bias(None, 0)
    node = value.producer()
    if node is None:
        return _Bias(value, 0)
    if node.op_type == "Expand" and input_of(node, 0).is_graph_input():
        return _Bias(input_of(node, 0), 0)
    if node.op_type != "Add":
        return None
    tree, window = find_bias(input_of(node, 0)), _window(input_of(node, 1))
    return None if tree is None or tree.window or window is None else _Bias(tree.tree, window)


def _window(value: ir.Value) -> int | None:
    """The window of a bias ``Where(position - position of key >= window, MASKED, 0)``; None if it is something else."""
    where = _made_by(_made_by(value, "Unsqueeze"), "Where")
    outside = _made_by(where, "GreaterOrEqual")
    distance = _made_by(outside, "Sub")
    if where is None or outside is None or distance is None:
        return None
    rows, keys = _made_by(distance, "Unsqueeze"), _made_by(input_of(distance, 1), "Unsqueeze")
    joined = _made_by(keys, "Concat")
    before = None if joined is None else _made_by(_made_by(joined, "Unsqueeze"), "Range")
    hidden = number_of(input_of(where, 1)), number_of(input_of(where, 2))
    if rows is None or joined is None or before is None or hidden != (float(np.float32(MASKED)), 0.0):
        return None
    positions = {input_of(rows, 0).name, input_of(joined, 1).name}
    window = number_of(input_of(outside, 1))
    return int(window) if positions == {"position_ids"} and window is not None else None


def _rotaries(heads: Sequence[ir.Value]) -> list[ir.Node]:
    """The rotary embeddings that make ``heads`` (queries, and keys), if all are the same over the step's positions."""
    nodes = [node for value in heads if (node := value.producer()) is not None]
    if len(nodes) < len(heads) or any((node.op_type, node.domain) != ("RotaryEmbedding", CONTRIB) for node in nodes):
        return []
    names = ("interleaved", "rotary_embedding_dim")
    kinds = {(*node.inputs[1:], *(node.attributes[name].as_int() for name in names)) for node in nodes}
    return nodes if len(kinds) == 1 and input_of(nodes[0], 1).name == "position_ids" else []


def _norm_of(value: ir.Value, size: int) -> _Norm | None:
    """The norm over heads of ``size`` that makes ``value``: in three axes, with a Reshape before and after it."""
    norm = _made_by(_made_by(value, "Reshape"), LAST_AXIS_NORM)
    before = None if norm is None else _made_by(norm, "Reshape")
    if norm is None or before is None or dims_of(input_of(norm, 1)) != [size]:
        return None
    source = input_of(before, 0)
    if known_dims(source) != known_dims(value):
        return None
    return _Norm(source, input_of(norm, 1), norm.attributes["epsilon"].as_float())


def _joined(node: ir.Node, *parts: ir.Value) -> ir.Value:
    """q, k and v side by side: the value they were split from, or their concatenation."""
    split = parts[0].producer()
    if split is not None and split.op_type == "Split" and tuple(split.outputs) == parts:
        return input_of(split, 0)
    concat = ir.node("Concat", list(parts), {"axis": -1})
    widths = [dims_of(part)[-1] for part in parts]
    concat.outputs[0].shape = ir.Shape([*dims_of(parts[0])[:-1], sum(int(width) for width in widths)])
    concat.outputs[0].type = parts[0].type
    assert node.graph is not None
    node.graph.insert_before(node, concat)
    return concat.outputs[0]


def _total(node: ir.Node) -> ir.Value | None:
    """T as int64, from which the portable operator's int32 is cast."""
    cast = _made_by(input_of(node, 6), "Cast")
    total = None if cast is None else input_of(cast, 0)
    return total if total is not None and total.dtype == ir.DataType.INT64 else None


def _made_by(source: ir.Value | ir.Node | None, op_type: str) -> ir.Node | None:
    """The node of that type that makes ``source``, or the first input of the node ``source``."""
    value = input_of(source, 0) if isinstance(source, ir.Node) else source
    node = None if value is None else value.producer()
    return node if node is not None and (node.op_type, node.domain) == (op_type, "") else None


def _graph_input(model: ir.Model, name: str) -> ir.Value:
    return next(value for value in model.graph.inputs if value.name == name)
