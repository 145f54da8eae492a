"""One training in several processes that torchrun started, on one machine or more (DistributedDataParallel).

All draw the same windows, and each learns from its own share of them, so that the gradients' mean is that of one
process with all of them. What follows the clock is decided by the first process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed, nn

# The others wait while the first one exports and answers, which can take hours.
_PATIENCE = timedelta(days=7)


@contextmanager
def joined_processes() -> Iterator[None]:
    """A context in which the processes of torchrun know one another; nothing for a process alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def process_count() -> int:
    """How many processes learn together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this process is alone or the first: it writes files and reports."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def own_share(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """This process's share of the rows that all have drawn, whose number all processes together divide."""
    return np.split(rows, process_count())[distributed.get_rank()] if distributed.is_initialized() else rows


def as_first(value: float) -> float:
    """The first process's ``value``, in all; every process must call it."""
    if not distributed.is_initialized():
        return value
    agreed = torch.tensor(value, dtype=torch.float64)
    distributed.broadcast(agreed, 0)
    return agreed.item()


def wait_for_all() -> None:
    """Returns once every process is here."""
    as_first(0.0)


def averaging(module: nn.Module) -> Any:
    """``module``, the gradients of which are the mean over all processes."""
    return nn.parallel.DistributedDataParallel(module) if distributed.is_initialized() else module
