"""Copies of the native graph for the other KV types that our attention reads."""

from __future__ import annotations

import onnx_ir as ir

from export.graph.ir_helpers import dims_of, find_nodes, input_of
from export.graph.native.attention import AttentionInput
from export.graph.native.operators import ATTENTION, DOMAIN
from export.graph.passes import CONTRIB

# A row of an int8 cache ends with its float32 scale, one of int4 with the bfloat16 scales of its halves.
_SCALE_BYTES = 4
KV_TYPES = {
    "fp32": ir.DataType.FLOAT,
    "fp16": ir.DataType.FLOAT16,
    "int8": ir.DataType.INT8,
    "int4": ir.DataType.UINT8,
}


def kv_types(model: ir.Model) -> list[str]:
    """The KV types that a native graph can have: fp32 alone if an attention of ONNX Runtime is left in it.

    Two codes of four bits share a byte, so heads of an odd size have no int4.
    """
    ours, others = list(find_nodes(model, ATTENTION, DOMAIN)), list(find_nodes(model, "GroupQueryAttention", CONTRIB))
    if others or not ours:
        return ["fp32"]
    sizes = [int(dims_of(input_of(node, AttentionInput.PAST_KEY))[-1]) for node in ours]
    return [kv_type for kv_type in KV_TYPES if kv_type != "int4" or not any(size % 2 for size in sizes)]


def with_kv_type(model: ir.Model, kv_type: str) -> ir.Model:
    """A copy of a float32 graph whose past and present are of another type."""
    copy = model.clone()
    caches = [*copy.graph.inputs, *copy.graph.outputs]
    for value in caches:
        if str(value.name).startswith(("past_key_values.", "present.")):
            value.dtype = KV_TYPES[kv_type]
            *outer, size = dims_of(value)
            value.shape = ir.Shape([*outer, row_width(kv_type, int(size))])
    return copy


def row_width(kv_type: str, head_size: int) -> int:
    """Elements of a cached row of one head: values, or the bytes of codes and scales."""
    return {"int8": head_size + _SCALE_BYTES, "int4": head_size // 2 + _SCALE_BYTES}.get(kv_type, head_size)
