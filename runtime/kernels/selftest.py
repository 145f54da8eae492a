"""Tries a library of native kernels: every operator through ONNX Runtime, its numbers bit for bit, its refusals.

``python -m runtime.kernels.selftest LIBRARY`` prints one JSON object, ``{"description": TEXT, "fault": TEXT}``: what
the library says of itself and the first thing found wrong, null if nothing was. It runs in a process of its own, since
a library made for another system or another ONNX Runtime may crash it.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# Before the import of ONNX Runtime, which would send telemetry otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime as ort

from runtime.kernels.cases import Array, Case, cases, refusals

_FATAL_ONLY = 4


def find_fault(library: Path) -> str | None:
    """The first thing wrong with ``library``, None if all is as specified."""
    every = list(cases())
    for threads in (1, 2):
        for case in every:
            try:
                fault = _fault_of(case, library, threads)
            except Exception as error:  # ONNX Runtime's errors share no other base
                fault = _first_line(error)
            if fault is not None:
                return f"{case.name} on {threads} thread{'s' * (threads > 1)}: {fault}"
    return next(filter(None, (_refusal_fault(library, tensor, case) for tensor, case in refusals())), None)


def count_different(found: Array, expected: Array) -> int:
    """How many values of ``expected`` are others, in any bit, in ``found``; every NaN is as good as another."""
    if found.ndim != expected.ndim or found.dtype != expected.dtype:
        return max(expected.size, 1)
    part = np.ascontiguousarray(found[tuple(slice(size) for size in expected.shape)])
    if part.shape != expected.shape:
        return max(expected.size, 1)
    bits = np.dtype(f"u{expected.itemsize}")
    same = part.view(bits) == np.ascontiguousarray(expected).view(bits)
    if expected.dtype.kind == "f":
        same |= np.isnan(part) & np.isnan(expected)
    return int(np.sum(~same))


def describe(library: Path) -> str:
    """What the library says of itself: JSON text."""
    told = ctypes.CDLL(str(library)).pocketspec_kernels
    told.restype = ctypes.c_char_p
    return bytes(told()).decode()


def _open(case: Case, library: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = threads
    options.add_session_config_entry("pocketspec.threads", str(threads))
    options.register_custom_ops_library(str(library))
    return ort.InferenceSession(case.model(), options, providers=["CPUExecutionProvider"], enable_fallback=False)


def _fault_of(case: Case, library: Path, threads: int) -> str | None:
    session = _open(case, library, threads)
    for trial in case.trials:
        for name, found in zip(trial.expected, session.run(list(trial.expected), dict(trial.given)), strict=True):
            if wrong := count_different(found, trial.expected[name]):
                shape = "x".join(map(str, trial.expected[name].shape))
                return f"{wrong} values of {name} [{shape}] are not those specified"
    return None


def _refusal_fault(library: Path, tensor: str, case: Case) -> str | None:
    """Bad input must come back as an exception that names the operator and the tensor."""
    try:
        _open(case, library, 1).run(None, dict(case.trials[0].given))
    except Exception as error:  # ONNX Runtime's errors share no other base
        told = _first_line(error)
        return None if case.operator in told and tensor in told else f"it refuses a wrong {tensor} with: {told}"
    return f"{case.operator} takes {tensor} of a wrong size"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


def main(arguments: Sequence[str]) -> int:
    """Prints the verdict."""
    (name,) = arguments
    library = Path(name)
    description = ""
    try:
        description = describe(library)
        fault = find_fault(library)
    except (OSError, AttributeError) as error:
        fault = f"it cannot be loaded: {error}"
    print(json.dumps({"description": description, "fault": fault}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
