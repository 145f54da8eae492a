"""Where a level runs: its execution provider, and the cores of its threads.

ONNX Runtime keeps the threads of a session's pool on their cores. The first thread is the caller's own, which other
levels need as well, so it is kept on a level's cores only while that level runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import onnxruntime as ort

from memory.plan import Placement
from runtime.errors import UnsupportedModelError

CPU = Placement()


def check_placement(name: str, placement: Placement) -> None:
    """UnsupportedModelError if level ``name`` cannot run where ``placement`` says; there is no fallback."""
    providers = ort.get_available_providers()
    if placement.provider not in providers:
        raise UnsupportedModelError(
            f"{name} is placed on {placement.provider}, and this ONNX Runtime has {', '.join(providers)}; install one"
            " that has it, or place the level elsewhere"
        )
    if placement.cores and not hasattr(os, "sched_setaffinity"):
        raise UnsupportedModelError(
            f"{name} is placed on cores {_numbers(placement.cores)}, and this system lets no program choose its cores;"
            " give it a number of threads instead"
        )
    missing = set(placement.cores).difference(os.sched_getaffinity(0)) if placement.cores else ()
    if missing:
        raise UnsupportedModelError(
            f"{name} is placed on core {min(missing)}, and this process may use {_numbers(os.sched_getaffinity(0))};"
            " place it on some of those"
        )


def keep_on_cores(cores: Sequence[int]) -> None:
    """Keeps the calling thread on ``cores`` from now on; does nothing if there are none."""
    if cores:
        os.sched_setaffinity(0, cores)


@contextmanager
def on_cores(cores: Sequence[int]) -> Iterator[None]:
    """Keeps the calling thread on ``cores`` until the block ends; does nothing if there are none."""
    before = os.sched_getaffinity(0) if cores else set()
    moves = before != set(cores)
    if moves:
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        if moves:
            os.sched_setaffinity(0, before)


def _numbers(cores: Sequence[int] | set[int]) -> str:
    return ", ".join(map(str, sorted(cores)))
