"""Measures written bundles with little memory: large models run in a process of their own, without torch.

An export holds about 400 MB of torch, transformers and the traced graph, which it cannot give back. Running a written
bundle needs none of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from export.manifest import PocketspecError

Value = TypeVar("Value")

# A measurement of at most so many bytes of weights stays in this process: another one takes a second to start.
HERE_BYTES = 128 << 20


def run_lean(weight_bytes: int, work: Callable[..., Value], *arguments: Any) -> Value:
    """The result of ``work(*arguments)``, a function of a module without torch that runs ``weight_bytes`` of weights.

    PocketspecError if it raises one, or if the system ended its process for want of memory.
    """
    if weight_bytes <= HERE_BYTES:
        return work(*arguments)
    from runtime.process.isolated import run_isolated

    try:
        return run_isolated(_work, work, arguments, notify=lambda line: None)
    except OSError as error:
        raise PocketspecError(f"no process for it could be started ({error})") from error


def _work(work: Callable[..., Value], arguments: tuple[Any, ...], notify: Callable[[str], None]) -> Value:
    return work(*arguments)
