"""MXFP4 (OCP Microscaling Formats 1.0), in which GPT-OSS checkpoints store the matrices of experts.

32 numbers in a row share a power of two. ``NAME_blocks``, uint8 ``[experts, rows, blocks, 16]``, has two numbers of
four bits a byte, the lower half first; ``NAME_scales``, uint8 ``[experts, rows, blocks]``, the exponents plus 127. The
model of transformers has such matrices as ``[experts, columns, rows]``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from export.sources.tensor_source import FloatArray

METHOD = "mxfp4"
BLOCKS, SCALES = "_blocks", "_scales"
_BLOCK_BYTES = 16
_BIAS = 127
_POSITIVE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # E2M1: two bits of exponent, one of mantissa
_NUMBERS = np.array([*_POSITIVE, *(-number for number in _POSITIVE)], np.float32)
_PAIRS = np.stack((np.tile(_NUMBERS, 16), np.repeat(_NUMBERS, 16)), -1)  # of every byte

Bytes = npt.NDArray[np.uint8]


def without_packing(config: Any) -> Any:
    """``config`` as if its checkpoint stored plain numbers, which is what reading MXFP4 makes of it."""
    settings = getattr(config, "quantization_config", None)
    if isinstance(settings, dict) and settings.get("quant_method") == METHOD:
        del config.quantization_config
    return config


def fits(blocks: tuple[int, ...], scales: tuple[int, ...]) -> bool:
    """Whether tensors of these shapes can be the two parts of matrices."""
    return len(blocks) == 4 and blocks[3] == _BLOCK_BYTES and blocks[:3] == scales


def unpacked_shape(blocks: tuple[int, ...]) -> tuple[int, int, int]:
    """The shape of the tensor of transformers."""
    return blocks[0], blocks[2] * 2 * _BLOCK_BYTES, blocks[1]


def unpack(blocks: Bytes, scales: Bytes) -> FloatArray:
    """The numbers of some experts, float32 ``[experts, columns, rows]``, which float32 holds exactly.

    Both have an axis more, of one byte.
    """
    numbers = _PAIRS[blocks[..., 0]].reshape(*scales.shape[:3], 2 * _BLOCK_BYTES)
    with np.errstate(over="ignore"):  # what is infinite is refused by name when it is written
        numbers *= np.ldexp(np.float32(1), scales.astype(np.int32) - _BIAS)
    return numbers.reshape(*scales.shape[:2], -1).swapaxes(1, 2)
