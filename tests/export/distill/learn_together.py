"""A few steps of training, as one of torchrun's processes or alone: writes the weights it ends with.

torchrun --nproc-per-node 2 learn_together.py TOKENS_PER_STEP FOLDER
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

from export.distill import devices
from export.distill import train as training
from export.distill.parallel import ParallelObjective
from export.distill.processes import joined_processes
from tests.export.distill.test_parallel import MASK, _cycle, _model


def learn(tokens_per_step: int, folder: Path) -> list[float]:
    """The losses of eight steps. The clock is even, so that schedules are, and weights stay float32."""
    ticks, losses = itertools.count(), list[float]()
    training.time = SimpleNamespace(monotonic=lambda: next(ticks) * 0.1)  # type: ignore[assignment]
    training.REPORT_STEPS = 1
    schedule = training.Schedule(0.1 * 8 / 60, tokens_per_step, length=16, long_length=32)
    task = ParallelObjective(_cycle(), MASK, 3)
    torch.set_num_threads(1)
    devices.bfloat16_is_faster = lambda: False  # type: ignore[assignment]
    training.train(_model(), task, schedule, folder, report=lambda progress: losses.append(progress.loss))
    return losses


if __name__ == "__main__":
    with joined_processes():
        learn(int(sys.argv[1]), Path(sys.argv[2]))
