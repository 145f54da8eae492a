"""Where training runs: on a CUDA device if there is one, else on the processor; in bfloat16 where that is faster."""

from __future__ import annotations

import os
import timeit
from functools import cache, partial
from typing import Any

import numpy.typing as npt
import torch


def training_device() -> torch.device:
    """This process's device; of several CUDA devices, torchrun gives every process of a machine its own."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def mixed_precision(device: torch.device) -> torch.autocast:
    """A context in which matrices are multiplied in bfloat16 where that is faster."""
    if device.type == "cuda":
        return torch.autocast("cuda", torch.bfloat16, enabled=torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_is_faster())


@cache
def bfloat16_is_faster() -> bool:
    """Whether this processor multiplies matrices of bfloat16 faster than of float32, by a short trial.

    Instructions for it do not say so: with AVX512-BF16, but no tiles, oneDNN took twice as long (2026-11-29, Xeon).
    """
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        rows, matrix = torch.ones(512, 256, dtype=dtype), torch.ones(256, 1024, dtype=dtype)
        seconds[dtype] = min(timeit.repeat(partial(torch.mm, rows, matrix), number=1, repeat=7))
    return seconds[torch.bfloat16] < seconds[torch.float32]


def device_of(model: Any) -> torch.device:
    """Where the weights of ``model`` are."""
    return next(model.parameters()).device


def tensors_for(model: Any, *arrays: npt.NDArray[Any]) -> list[torch.Tensor]:
    """The arrays as tensors where the weights of ``model`` are."""
    return [torch.from_numpy(array).to(device_of(model)) for array in arrays]
