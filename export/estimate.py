"""How large and how long an export will be, from shapes alone: for the plan, before anything is downloaded or built."""

from __future__ import annotations

from dataclasses import dataclass

from export.manifest import Shape
from export.request import BITS, NATIVE_BLOCK_SIZES, Job

# Heuristics, rounded, from exports on 2 cores of a server CPU: building a graph, and writing a weight.
GRAPH_SECONDS = 4.0
GRAPH_SECONDS_PER_LAYER = 0.4
SECONDS_PER_PARAMETER = {4: 40e-9, 8: 15e-9, 16: 5e-9, 32: 5e-9}


@dataclass(frozen=True)
class Estimate:
    """About what a level will take: parameters, bytes on disk, seconds without the check."""

    parameters: int
    file_bytes: int
    seconds: float


def count_parameters(shape: Shape) -> int:
    """Weights of a decoder of this shape with a tied head; small vectors are left out.

    Qwen2-1.5B: 28 * (1536 * 128 * (2 * 12 + 2 * 2) + 3 * 1536 * 8960) + 1536 * 151936 = 1,544 million.
    """
    attention = shape.hidden_size * shape.head_size * (2 * shape.heads + 2 * shape.kv_heads)
    layer = attention + 3 * shape.hidden_size * shape.mlp_size
    return shape.layers * layer + shape.hidden_size * shape.vocab_size


def estimate_job(job: Job, shape: Shape, block_size: int | None, packed: bool = False) -> Estimate:
    """The estimate of one level. A block of a quantized matrix has a scale of 4 bytes, and of 2 in a packed file."""
    parameters, bits = count_parameters(shape), BITS[job.weights]
    bits_per_weight = bits + (32 / block_size if block_size else 0)
    tables = shape.positions * shape.head_size * 4
    seconds = GRAPH_SECONDS + GRAPH_SECONDS_PER_LAYER * shape.layers + parameters * SECONDS_PER_PARAMETER[bits]
    size = int(parameters * bits_per_weight / 8) + tables
    if packed and block_size in NATIVE_BLOCK_SIZES:
        size += int(parameters * (bits + 16 / block_size) / 8) + tables
    return Estimate(parameters, size, seconds)
