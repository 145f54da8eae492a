"""Golden digests of the self-test: the inputs and expected outputs of every case, stored in a file.

The reference computes expected outputs in NumPy on this machine, and NumPy may err (its AVX512 ``exp2(127)`` is not
2^127). The digests tell whether the reference is wrong, or the library. After a change of the arithmetic or of the
cases, ``python -m runtime.kernels.selftest.golden`` writes the file again.
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.kernels.selftest.cases import Case, cases

FILE = Path(__file__).with_name("golden.json")


class ReferenceCheck(enum.Enum):
    """How a case that was computed here compares with its digests."""

    RIGHT = "right"
    WRONG = "gives other bits than it should"
    # Inputs may come from earlier outputs, or from a wrong random number.
    OFF = "is given other bits than it should"


def digests() -> dict[str, list[str]]:
    """For every case by name: the digests of its inputs and of its outputs."""
    found: dict[str, list[str]] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def judge_reference(case: Case, golden: dict[str, list[str]]) -> ReferenceCheck:
    """Whether the reference computed ``case`` as specified."""
    inputs, outputs = golden.get(case.name, ("", ""))
    if digest_of_inputs(case) != inputs:
        return ReferenceCheck.OFF
    return ReferenceCheck.RIGHT if digest_of_outputs(case) == outputs else ReferenceCheck.WRONG


def digest_of_inputs(case: Case) -> str:
    """Digest of the constants and of the inputs of all calls."""
    arrays = [case.constants[name] for name in sorted(case.constants)]
    arrays += [trial.given[name] for trial in case.trials for name in sorted(trial.given)]
    attributes = np.frombuffer(repr(sorted(case.attributes.items())).encode(), np.uint8)
    return digest([attributes, *arrays])


def digest_of_outputs(case: Case) -> str:
    """Digest of the expected outputs of all calls."""
    return digest(trial.expected[name] for trial in case.trials for name in trial.expected)


def digest(arrays: Iterable[npt.NDArray[Any]]) -> str:
    """A hash of shapes, types and bits; all NaN count as equal."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.dtype.str} {array.shape};".encode())
        if array.dtype.kind == "f":
            array = np.where(np.isnan(array), array.dtype.type(np.nan), array)
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def main() -> None:
    """Writes the file."""
    found = {case.name: [digest_of_inputs(case), digest_of_outputs(case)] for case in cases()}
    FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
