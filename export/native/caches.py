"""The native graph for the KV types that our attention reads beside float32."""

from __future__ import annotations

import onnx_ir as ir

from export.native.operators import ATTENTION, DOMAIN
from export.passes import CONTRIB
from export.tidy import dims_of, find_nodes

# A row of an int8 cache ends with its float32 scale.
_SCALE_BYTES = 4
KV_TYPES = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16, "int8": ir.DataType.INT8}


def kv_types(model: ir.Model) -> list[str]:
    """The KV types a native graph can have: all, or only its own where an attention of ONNX Runtime is left."""
    ours, others = list(find_nodes(model, ATTENTION, DOMAIN)), list(find_nodes(model, "GroupQueryAttention", CONTRIB))
    return ["fp32"] if others or not ours else list(KV_TYPES)


def with_kv_type(model: ir.Model, kv_type: str) -> ir.Model:
    """A copy of a float32 graph whose past and present are of another type."""
    copy = model.clone()
    caches = [*copy.graph.inputs, *copy.graph.outputs]
    for value in caches:
        if str(value.name).startswith(("past_key_values.", "present.")):
            value.dtype = KV_TYPES[kv_type]
            dims = dims_of(value)
            if kv_type == "int8":
                value.shape = ir.Shape([*dims[:-1], int(dims[-1]) + _SCALE_BYTES])
    return copy
