"""What quantized matrices stand for."""

from __future__ import annotations

from export.quantization.blocks import Quantized, dequantize
from export.sources.tensor_source import FloatArray


def weights_of(quantized: Quantized, bits: int, columns: int) -> FloatArray:
    """The weights of a quantized matrix, float32 ``[rows, columns]``."""
    return dequantize(quantized.codes, quantized.scales, quantized.zero_points, bits)[:, :columns]
