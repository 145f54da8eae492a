"""Measurements of what was exported, with little memory: large models run in a process of their own, without torch.

An export holds some 400 MB of torch, transformers and the traced graph that nothing gives back. Who runs a written
bundle needs none of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from export.manifest import PocketspecError

Value = TypeVar("Value")

# Up to this many bytes of weights a measurement stays here: another process takes a second to start.
HERE_BYTES = 128 << 20


def run_lean(weight_bytes: int, work: Callable[..., Value], *arguments: Any) -> Value:
    """What ``work(*arguments)`` gives, a function of a module without torch that runs ``weight_bytes`` of weights.

    Its PocketspecError is raised here, also where the system ended the process for want of memory.
    """
    if weight_bytes <= HERE_BYTES:
        return work(*arguments)
    from runtime.process.isolated import run_apart

    try:
        return run_apart(_work, work, arguments, notify=lambda line: None)
    except OSError as error:
        raise PocketspecError(f"no process for it could be started ({error})") from error


def _work(work: Callable[..., Value], arguments: tuple[Any, ...], notify: Callable[[str], None]) -> Value:
    return work(*arguments)
