"""What a process takes before it holds anything of a model, by the kernels that run in it.

It depends on versions of libraries, on the processor, and on how files lie in the system's cache, so it is measured
once on every device, by a process of its own (``python -m runtime.calibration.process_baseline``). What is written
down here stands in.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from memory.child import run_module

KernelKind = Literal["native", "portable"]


# Measuring takes 2 s.
_PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class ProcessBytes:
    """Bytes of a process without a model.

    ``modules``: anonymous ones when all modules are loaded. ``session``: those of the first session on top, its threads
    among them. ``files``: pages of libraries that a conversation touches.
    """

    modules: int
    session: int
    files: int


# Where nothing has been measured: Linux x86-64 (EPYC Zen 4, two cores), Python 3.11, NumPy 2.4, ONNX Runtime 1.32. With
# ONNX Runtime's own operators a process touches more pages of libraries.
REFERENCE: dict[KernelKind, ProcessBytes] = {
    "native": ProcessBytes(33_100_000, 1_400_000, 53_000_000),
    "portable": ProcessBytes(33_100_000, 1_400_000, 55_200_000),
}


def read_process(data: Mapping[str, Any]) -> ProcessBytes | None:
    """From JSON data as ``asdict`` makes it; None if it is none, or what no process can have."""
    try:
        found = ProcessBytes(**{name: int(value) for name, value in data.items()})
    except (TypeError, ValueError, AttributeError, OverflowError):
        return None
    return found if min(found.modules, found.files) > 0 <= found.session else None


def find_process(kernels: KernelKind) -> ProcessBytes:
    """What was measured on this device, now at the latest; what is written down if that cannot be found out.

    The runtime does it, as a process: the planner knows nothing of what runs its plans.
    """
    try:
        done = run_module("runtime.calibration.process_baseline", kernels, timeout=_PATIENCE_SECONDS)
        found = read_process(json.loads(done.stdout))
    except (OSError, ValueError, subprocess.TimeoutExpired):
        found = None
    return found or REFERENCE[kernels]
