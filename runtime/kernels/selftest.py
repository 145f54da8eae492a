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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before the import of ONNX Runtime, which would send telemetry otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from runtime.kernels import reference
from runtime.kernels.onnx_bytes import Attribute, Node, ValueType, encode_model
from runtime.kernels.reference import Floats, Matrix

_FATAL_ONLY = 4
# One row, fewer and more than the 16 of a tile, and not a multiple of anything.
_ROWS = (1, 2, 7, 19)
_EPSILON = 1e-6

_OPTIONAL = {"MatMulPanel": ("zero_points", "bias", "gain", "residual"), "GatherPanel": ("zero_points",)}

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Case:
    """One operator on made-up data. ``given`` holds the input ``taken``, rows first; ``expected`` the rows to get."""

    name: str
    operator: str
    attributes: Mapping[str, Attribute]
    constants: Arrays
    given: npt.NDArray[Any]
    expected: Floats
    residual: Floats | None = None
    taken: str = "A"


def find_fault(library: Path) -> str | None:
    """The first thing wrong with ``library``, None if all is as specified."""
    for threads in (1, 2):
        for case in cases():
            try:
                fault = _try(case, library, threads)
            except Exception as error:  # ONNX Runtime's errors share no other base
                fault = str(error).strip().splitlines()[0]
            if fault is not None:
                return f"{case.name} on {threads} threads: {fault}"
    return _refusal_fault(library)


def cases() -> Iterator[Case]:
    """Every operator with every kind of weight and every option, in shapes that are no multiple of anything."""
    for bits, block, half, own_zeros in (
        (4, 32, True, False),
        (4, 64, False, True),
        (8, 128, True, True),
        (8, 32, False, False),
    ):
        matrix = make_matrix(37, 203, bits, block, half=half, own_zeros=own_zeros)
        kind = f"int{bits}, blocks of {block}{', zero points' if own_zeros else ''}"
        yield _matmul(f"MatMulPanel ({kind})", [matrix])
        yield _gather(f"GatherPanel ({kind})", matrix)
    matrix = make_matrix(48, 160, 4, 32, half=True, own_zeros=False)
    yield _matmul("MatMulPanel with bias, gain and residual", [matrix], extra=("bias", "gain", "residual"))
    for activation in ("silu", "gelu_tanh"):
        pair = [make_matrix(24, 96, 4, 32, half=True, own_zeros=False, seed=seed) for seed in (1, 2)]
        yield _matmul(f"MatMulPanel with {activation}", pair, activation, extra=("gain",))


def make_matrix(n: int, k: int, bits: int, block: int, *, half: bool, own_zeros: bool, seed: int = 0) -> Matrix:
    """A random matrix [n, k]."""
    rng = np.random.default_rng([n, k, bits, block, seed])
    blocks = -(-k // block)
    scales = rng.uniform(0.5, 2.0, (n, blocks)).astype(np.float16 if half else np.float32)
    zeros = rng.integers(0, 1 << bits, (n, blocks), np.uint8) if own_zeros else None
    codes = rng.integers(0, 1 << bits, (n, k), np.uint8)
    return Matrix(codes, scales, zeros, bits, block)


def packed(matrices: Sequence[Matrix]) -> dict[str, npt.NDArray[Any]]:
    """One matrix as the operators read it, or the two parts of a gated one with their panels in turns."""
    parts = [matrix.packed() for matrix in matrices]
    return {
        name: np.stack([part[name] for part in parts], 1).reshape(-1, *parts[0][name].shape[1:]) for name in parts[0]
    }


def open_session(model: bytes, library: Path | None, threads: int) -> ort.InferenceSession:
    """A session for ``model`` that prints nothing; ``library`` None: with ONNX Runtime's own operators alone."""
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = threads
    if library is not None:
        options.add_session_config_entry("pocketspec.threads", str(threads))
        options.register_custom_ops_library(str(library))
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _matmul(name: str, matrices: Sequence[Matrix], activation: str | None = None, extra: Sequence[str] = ()) -> Case:
    """``extra`` names optional inputs to use: "bias", "gain", "residual"."""
    n, k = matrices[0].codes.shape
    rows = max(_ROWS)
    rng = np.random.default_rng([n, k])
    x = (rng.standard_normal((rows, k)) * np.exp(rng.standard_normal((rows, 1)))).astype(np.float32)
    x[3], x[5, 7], x[6, 9] = 0, np.inf, np.nan
    shapes = {"bias": (n * len(matrices),), "gain": (k,), "residual": (rows, n)}
    options: Arrays = {name: rng.standard_normal(shapes[name]).astype(np.float32) for name in extra}
    attributes: dict[str, Attribute] = {"K": k, "N": n, "bits": matrices[0].bits, "block_size": matrices[0].block}
    attributes |= {"epsilon": _EPSILON} if "gain" in extra else {}
    attributes |= {"activation": activation} if activation else {}
    expected = reference.matmul_panel(x, matrices, activation=activation, epsilon=_EPSILON, **options)
    constants = {name: array for name, array in options.items() if name != "residual"}
    return Case(
        name, "MatMulPanel", attributes, {**packed(matrices), **constants}, x, expected, options.get("residual")
    )


def _gather(name: str, matrix: Matrix) -> Case:
    n, k = matrix.codes.shape
    ids = np.arange(max(_ROWS), dtype=np.int64) * 5 % n
    attributes: dict[str, Attribute] = {"K": k, "N": n, "bits": matrix.bits, "block_size": matrix.block, "scale": 1.5}
    expected = np.stack([matrix.row(index, 1.5) for index in ids])
    return Case(name, "GatherPanel", attributes, packed([matrix]), ids, expected, taken="ids")


def case_model(case: Case, **changed: npt.NDArray[Any]) -> bytes:
    """The case as a model of one node; ``changed`` replaces constants."""
    constants = {**case.constants, **changed}
    # Sizes are left open, or ONNX Runtime would refuse wrong ones before the operator does.
    given = {case.taken: ValueType(case.given.dtype.name, (1, "S", "W")[: case.given.ndim + 1])}
    if case.residual is not None:
        given["residual"] = ValueType("float32", (1, "S", "N"))
    known = {**constants, **given}
    inputs = [case.taken, "codes", "scales", *(name if name in known else "" for name in _OPTIONAL[case.operator])]
    node = Node(case.operator, inputs, ["Y"], case.attributes)
    return encode_model([node], given, {"Y": ValueType("float32", (1, "S", "N"))}, constants)


def _try(case: Case, library: Path, threads: int) -> str | None:
    session = open_session(case_model(case), library, threads)
    for rows in _ROWS:
        for start in (0, len(case.given) - rows):
            part = slice(start, start + rows)
            given = {case.taken: case.given[None, part]}
            if case.residual is not None:
                given["residual"] = case.residual[None, part]
            (found,) = session.run(None, given)
            if wrong := count_different(found[0], case.expected[part]):
                return f"{wrong} of {found.size} values of {rows} rows are not those specified"
    return None


def count_different(found: Floats, expected: Floats) -> int:
    """How many values differ in any bit; every NaN is as good as another."""
    if found.shape != expected.shape:
        return max(found.size, 1)
    same = (found.view(np.uint32) == expected.view(np.uint32)) | (np.isnan(found) & np.isnan(expected))
    return int(np.sum(~same))


def _refusal_fault(library: Path) -> str | None:
    """Bad input must come back as an exception that names the operator and the tensor."""
    case = next(cases())
    codes = case.constants["codes"]
    attempts = (
        ("codes", case_model(case, codes=codes[:-1]), case.given[None]),
        ("A", case_model(case), case.given[None, :, :-1]),
    )
    for tensor, model, given in attempts:
        try:
            open_session(model, library, 1).run(None, {"A": given})
        except Exception as error:
            if case.operator not in str(error) or tensor not in str(error):
                return f"the refusal of a wrong {tensor} does not say so: {str(error).splitlines()[0]}"
        else:
            return f"{case.operator} takes {tensor} of a wrong size"
    return None


def describe(library: Path) -> str:
    """What the library says of itself: JSON text."""
    told = ctypes.CDLL(str(library)).pocketspec_kernels
    told.restype = ctypes.c_char_p
    return bytes(told()).decode()


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
