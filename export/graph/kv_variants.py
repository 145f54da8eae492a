"""Copies of the portable graph for the other KV types: small files beside it, which read the same weights.

A float16 cache needs float16 queries. With float32 ones ONNX Runtime's CPU provider (1.31) converts the whole cache,
unused rows too, in every step (17 ms instead of 1.4 with 1,100 rows of a 9M model). So inputs of attention are cast to
float16, and its output back to float32.

int8 and int4 caches (ONNX Runtime 1.27 and later) have constant scales for each layer, KV head and channel. They follow
from the largest values that the float32 graph puts into its caches on a text. Later texts may have larger values, which
are clipped; hence headroom. Measured on 3,000 tokens of stories with ranges from other texts, on a 3M and a 9M model:
keys and values exceed the ranges by 16% to 21% on average, and 2.8 times at most. The KL divergence from the float32
cache is for int8 6e-3 with headroom 1, 1e-3 to 2e-3 with 1.25, and 2e-4 to 4e-4 with 2; for int4, whose 15 steps are
few, 8e-3 to 9e-3 with 1, 7e-3 to 8e-3 with 1.15, and 8e-3 to 9e-3 with 1.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from export.graph.ir_helpers import dims_of, find_nodes, input_of, redirect
from export.graph.passes import CONTRIB
from export.manifest import ModelShape, Role
from export.sources.tensor_source import FloatArray

_FLOAT_INPUTS = (0, 1, 2, 10, 11)  # query, key, value, bias, sinks
# Channels that the text left near zero get the scale of a range this far below the head's largest.
_FLOOR = 1 / 128
_TINY = 1e-6  # the range of a head that is zero throughout


@dataclass(frozen=True)
class _KvStorage:
    """How a cache is stored: ``bits`` of a value, and ``levels``, the largest code (None: there are no scales)."""

    dtype: ir.DataType
    bits: int
    levels: int | None = None
    headroom: float = 1.0


_KV_TYPES = {
    "fp16": _KvStorage(ir.DataType.FLOAT16, 16),
    "int8": _KvStorage(ir.DataType.INT8, 8, levels=127, headroom=2.0),
    "int4": _KvStorage(ir.DataType.UINT8, 4, levels=7, headroom=1.15),
}


def portable_kv_types(role: Role, shape: ModelShape) -> list[str]:
    """The KV types beside float32 that a level gets portable graphs for.

    Drafters have float16 alone: their caches are small beside the target's, and finding scales would cost time. So have
    models whose layers share caches: ONNX Runtime reads a quantized cache only where it adds rows to it. Two int4
    values share a byte, so heads of an odd size have none.
    """
    scaled = role != "drafter" and not shape.shares_caches
    kinds = [name for name, kind in _KV_TYPES.items() if kind.levels is None or scaled]
    return [name for name in kinds if shape.head_size * _KV_TYPES[name].bits % 8 == 0]


def needs_ranges(kv_types: Iterable[str]) -> bool:
    """Whether one of the types has scales, which follow from measured ranges."""
    return any(_KV_TYPES[kv_type].levels for kv_type in kv_types)


def write_kv_graph(folder: Path, graph: str, kv_type: str, ranges: Mapping[str, FloatArray]) -> str:
    """Writes the float32 ``folder/graph`` with caches of another type beside it; returns the name of the file.

    ``ranges`` has the largest magnitudes of every cache input, float32 ``[1, kv_heads, 1, head_size]``; float16 needs
    none.
    """
    name = f"{Path(graph).stem}-{kv_type}.onnx"
    model, kind = ir.load(folder / graph), _KV_TYPES[kv_type]
    for value in [*model.graph.inputs, *model.graph.outputs]:
        if str(value.name).startswith(("past_key_values.", "present.")):
            *outer, size = dims_of(value)
            value.dtype, value.shape = kind.dtype, ir.Shape([*outer, int(size) * min(kind.bits, 8) // 8])
    for node in find_nodes(model, "GroupQueryAttention", CONTRIB):
        if kind.levels is None:
            _attend_in(kind.dtype, node)
        else:
            _give_scales(model, node, kind, ranges)
    ir.save(model, folder / name)
    return name


def _attend_in(dtype: ir.DataType, node: ir.Node) -> None:
    """Gives a float32 attention another float type, with casts around it."""
    for slot, value in enumerate(node.inputs):
        if slot not in _FLOAT_INPUTS or value is None:  # graphs for chains have no bias
            continue
        known = (user.outputs[0] for user, _ in value.uses() if user.op_type == "Cast")  # all layers share the bias
        cast = next((output for output in known if output.dtype == dtype), None)
        node.replace_input_with(slot, cast or _cast(value, dtype, node))
    output = node.outputs[0]
    users = list(output.uses())
    back = ir.node("Cast", [output], {"to": ir.DataType.FLOAT.value})
    back.outputs[0].shape, back.outputs[0].dtype = output.shape, ir.DataType.FLOAT
    output.dtype = dtype
    assert node.graph is not None
    node.graph.insert_after(node, back)
    redirect(output, back.outputs[0], users)


def _cast(value: ir.Value, dtype: ir.DataType, before: ir.Node) -> ir.Value:
    """``value`` cast to another type, in front of a node."""
    cast = ir.node("Cast", [value], {"to": dtype.value})
    cast.outputs[0].shape, cast.outputs[0].dtype = value.shape, dtype
    assert before.graph is not None
    before.graph.insert_before(before, cast)
    return cast.outputs[0]


def _give_scales(model: ir.Model, node: ir.Node, kind: _KvStorage, ranges: Mapping[str, FloatArray]) -> None:
    """Makes a node's caches quantized ones with a scale for every channel."""
    assert kind.levels is not None
    node.attributes["kv_cache_bit_width"] = ir.AttrInt64("kv_cache_bit_width", kind.bits)
    node.resize_inputs(14)
    for attribute, cache, slot in (("k_quant_type", 3, 12), ("v_quant_type", 4, 13)):
        node.attributes[attribute] = ir.AttrString(attribute, "PER_CHANNEL")
        past = str(input_of(node, cache).name)
        largest = ranges[past]
        largest = np.maximum(largest, np.maximum(largest.max(-1, keepdims=True) * _FLOOR, _TINY))
        tensor = ir.tensor((largest * (kind.headroom / kind.levels)).astype(np.float32), name=f"{past}.scale")
        shape, dtype = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
        scale = ir.Value(name=tensor.name, shape=shape, type=dtype, const_value=tensor)
        model.graph.register_initializer(scale)
        node.replace_input_with(slot, scale)
