"""What routed experts take and cost: bytes of all of them, and how many of them the rows of a forward read."""

from __future__ import annotations

from export.manifest import ExpertShape, Level
from memory.device import Residence

_BITS = {"int4": 4, "int8": 8, "fp16": 16, "fp32": 32}
# Bytes of the scale of a block: native ones are float16, portable ones float32.
_SCALE_BYTES = {"native": 2}
_PORTABLE_SCALE_BYTES = 4


def read_share(experts: ExpertShape, rows: int) -> float:
    """The share of a layer's experts that a forward of ``rows`` rows is expected to read: 1 - (1 - used / count)^rows.

    A row leaves an expert out with probability 1 - used / count if all are equally likely, and ``rows`` rows do if each
    does (the occupancy problem, Feller 1968, II.5). 8 experts of which 2 are used: 2.0, 3.5, 5.5 and 7.2 of them for 1,
    2, 4 and 8 rows. Rows of one text may agree more than that.
    """
    return 1 - (1 - experts.used / experts.count) ** rows


def expert_bytes(level: Level, residence: Residence) -> int:
    """Bytes of the matrices of all experts of a level, without what rounds them up to panels; 0 if it has none."""
    experts, quantization = level.shape.experts, level.quantization
    if experts is None:
        return 0
    weights = 3 * experts.layers * experts.count * experts.mlp_size * level.shape.hidden_size
    scale = _SCALE_BYTES.get(residence, _PORTABLE_SCALE_BYTES)
    blocks = 0.0 if quantization.block_size is None else scale / quantization.block_size
    return int(weights * (_BITS[quantization.weights] / 8 + blocks))
