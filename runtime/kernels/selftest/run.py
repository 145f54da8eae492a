"""The self-test: runs every operator through ONNX Runtime, and checks its results bit for bit and its refusals.

``python -m runtime.kernels.selftest.run LIBRARY`` prints one JSON object: ``description`` is the library's description
of itself, the other fields are those of a ``SelfTestResult``. It needs a process of its own, since a library for
another system or another ONNX Runtime may crash it.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

# Set before ONNX Runtime is imported, which would send telemetry otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime as ort

from runtime.kernels.selftest.cases import Array, Case, cases, refusals
from runtime.kernels.selftest.golden import ReferenceCheck, digest, digests, judge_reference

_FATAL_ONLY = 4


@dataclass(frozen=True)
class SelfTestResult:
    """The first fault, None if everything is as specified.

    ``about`` says what is at fault: the library, the reference (NumPy on this machine), or the trial, which could not
    be completed. ``note`` is a fault of the reference that leaves the library right.
    """

    fault: str | None = None
    about: Literal["library", "reference", "trial"] = "library"
    note: str | None = None


def try_library(library: Path) -> SelfTestResult:
    """Compares ``library`` with the reference, and both with the golden digests."""
    golden = digests()
    every = [(case, judge_reference(case, golden)) for case in cases()]
    for threads in (1, 2):
        for case, reference in every:
            what = f"{case.name} on {threads} thread{'s' * (threads > 1)}"
            try:
                outputs = _run(case, library, threads)
            except Exception as error:  # ONNX Runtime's errors share no other base
                return SelfTestResult(f"{what}: {_first_line(error)}", "trial")
            if reference is ReferenceCheck.OFF:
                return SelfTestResult(f"{case.name}: NumPy {np.__version__} {reference.value} here", "reference")
            if digest(outputs) != golden[case.name][1]:
                return SelfTestResult(f"{what}: {_difference(case, outputs)}")
    fault = next(filter(None, (_refusal_fault(library, tensor, case) for tensor, case in refusals())), None)
    wrong = next((case.name for case, reference in every if reference is ReferenceCheck.WRONG), None)
    note = wrong and f"{wrong}: NumPy {np.__version__} gives other bits than it should here; the library is right"
    return SelfTestResult(fault, note=note)


def count_different(found: Array, expected: Array) -> int:
    """How many values of ``found`` differ from ``expected`` in any bit; all NaN count as equal."""
    if found.ndim != expected.ndim or found.dtype != expected.dtype:
        return max(expected.size, 1)
    part = _first_entries(found, expected)
    if part.shape != expected.shape:
        return max(expected.size, 1)
    bits = np.dtype(f"u{expected.itemsize}")
    same = part.view(bits) == np.ascontiguousarray(expected).view(bits)
    if expected.dtype.kind == "f":
        same |= np.isnan(part) & np.isnan(expected)
    return int(np.count_nonzero(~same))


def describe(library: Path) -> str:
    """The library's description of itself, JSON text."""
    describe_kernels = ctypes.CDLL(str(library)).pocketspec_kernels
    describe_kernels.restype = ctypes.c_char_p
    return bytes(describe_kernels()).decode()


def _open(case: Case, library: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = threads
    options.add_session_config_entry("pocketspec.threads", str(threads))
    options.register_custom_ops_library(str(library))
    return ort.InferenceSession(case.model(), options, providers=["CPUExecutionProvider"], enable_fallback=False)


def _run(case: Case, library: Path, threads: int) -> list[Array]:
    """The outputs of all calls, in the order and the size of the expected ones."""
    session = _open(case, library, threads)
    outputs: list[Array] = []
    for trial in case.trials:
        found = session.run(list(trial.expected), dict(trial.given))
        outputs += map(_first_entries, found, trial.expected.values())
    return outputs


def _first_entries(found: Array, expected: Array) -> Array:
    return np.ascontiguousarray(found[tuple(slice(size) for size in expected.shape)])


def _difference(case: Case, outputs: Sequence[Array]) -> str:
    """The first output that differs from the reference; if none does, the reference itself is wrong."""
    expected = [(name, array) for trial in case.trials for name, array in trial.expected.items()]
    for (name, array), found in zip(expected, outputs, strict=True):
        if wrong := count_different(found, array):
            shape = "x".join(map(str, array.shape))
            return f"{wrong} values of {name} [{shape}] are not those specified"
    return "values are not those specified, nor are those of the reference"


def _refusal_fault(library: Path, tensor: str, case: Case) -> str | None:
    """The fault if a wrong input does not raise an error that names the operator and the tensor."""
    try:
        _open(case, library, 1).run(None, dict(case.trials[0].given))
    except Exception as error:  # ONNX Runtime's errors share no other base
        line = _first_line(error)
        return None if case.operator in line and tensor in line else f"it refuses a wrong {tensor} with: {line}"
    return f"{case.operator} takes {tensor} of a wrong size"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


def main(arguments: Sequence[str]) -> int:
    """Runs the self-test and prints the result."""
    (name,) = arguments
    library = Path(name)
    description = ""
    try:
        description = describe(library)
        finding = try_library(library)
    except (OSError, AttributeError) as error:
        finding = SelfTestResult(f"it cannot be loaded: {error}", "trial")
    print(json.dumps({"description": description, **asdict(finding)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
