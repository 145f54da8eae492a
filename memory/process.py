"""What a process takes before it holds anything of a model, by the kernels that run in it.

It depends on the versions of libraries, on the processor and on the system's file cache. So it is measured once on
every device, by a process of its own (``python -m runtime.calibration.process_baseline``). Where that is not possible
the reference values below are used.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from memory.child import run_module

KernelKind = Literal["native", "portable"]


# Measuring takes about 2 s.
_PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class ProcessBytes:
    """Bytes of a process without a model.

    ``modules``: anonymous bytes once all modules are loaded. ``session``: what the first session and its threads add.
    ``files``: bytes of libraries that a conversation touches.
    """

    modules: int
    session: int
    files: int


# Measured on Linux x86-64 (Xeon Sapphire Rapids, two cores) with Python 3.11, NumPy 2.4 and ONNX Runtime 1.32. ONNX
# Runtime's own operators touch more pages of libraries than ours.
REFERENCE: dict[KernelKind, ProcessBytes] = {
    "native": ProcessBytes(34_300_000, 1_200_000, 58_400_000),
    "portable": ProcessBytes(34_300_000, 900_000, 59_900_000),
}


def read_process(data: Mapping[str, Any]) -> ProcessBytes | None:
    """The bytes in JSON data that ``asdict`` made; None if it is something else, or impossible."""
    try:
        found = ProcessBytes(**{name: int(value) for name, value in data.items()})
    except (TypeError, ValueError, AttributeError, OverflowError):
        return None
    return found if min(found.modules, found.files) > 0 <= found.session else None


def find_process(kernels: KernelKind) -> ProcessBytes:
    """What was measured on this device, before or now; the reference if it cannot be measured.

    The runtime measures, started as a process: the planner imports nothing of what runs its plans.
    """
    try:
        done = run_module("runtime.calibration.process_baseline", kernels, timeout=_PATIENCE_SECONDS)
        found = read_process(json.loads(done.stdout))
    except (OSError, ValueError, subprocess.TimeoutExpired):
        found = None
    return found or REFERENCE[kernels]
