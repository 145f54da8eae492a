"""Bytes of one level, by part, from its manifest and the sizes the plan gives it."""

from __future__ import annotations

from dataclasses import dataclass

from export.manifest import Level, Shape

ITEM_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}

# ONNX Runtime copies block-quantized weights into its kernels' layout: 1.1 x the file at block 128, 1.37 x at block 32,
# measured on 1.31 (AVX512-VNNI). The interpolation between them is ours.
_PACKED_SHARE = {128: 1.1, 64: 1.2, 32: 1.37, 16: 1.7}


@dataclass(frozen=True)
class Footprint:
    """Predicted bytes of one level: weights as they sit in memory, KV cache, logits, step inputs, prefill workspace."""

    weights: int
    kv_cache: int
    logits: int
    inputs: int
    workspace: int

    @property
    def total(self) -> int:
        """All parts together."""
        return self.weights + self.kv_cache + self.logits + self.inputs + self.workspace


def kv_bytes_per_token(shape: Shape, kv_type: str) -> int:
    """Bytes that one token adds to the KV cache: layers * 2 * kv_heads * head_size * itemsize.

    Qwen2-1.5B in fp16: 28 * 2 * 2 * 128 * 2 = 28,672 B.
    """
    return shape.layers * 2 * shape.kv_heads * shape.head_size * ITEM_BYTES[kv_type]


def logits_bytes(shape: Shape, rows: int) -> int:
    """Bytes of ``rows`` float32 rows of logits."""
    return rows * shape.vocab_size * 4


def level_footprint(level: Level, kv_type: str, capacity: int, rows: int, prefill_chunk: int) -> Footprint:
    """The footprint of a level with ``capacity`` cache rows, ``rows`` rows a step and prompts read in chunks."""
    shape = level.shape
    block = level.quantization.block_size
    packed = _PACKED_SHARE.get(block, 1.1) if block else 1.0
    attention = max(rows, prefill_chunk) * shape.heads * capacity * 4
    activations = prefill_chunk * (3 * shape.hidden_size + 3 * shape.mlp_size) * 4
    return Footprint(
        weights=int(level.weight_bytes * packed),
        kv_cache=capacity * kv_bytes_per_token(shape, kv_type),
        logits=logits_bytes(shape, rows),
        inputs=rows * capacity * 4 + capacity * 8,
        workspace=attention + activations,
    )
