"""MatMulPanel through ONNX Runtime on shapes and values that nobody plans for: the specified bits, never a crash."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.kernels import reference
from runtime.kernels.cases import make_matrix, packed
from runtime.kernels.library import Library, open_library
from runtime.kernels.onnx_bytes import Node, ValueType, encode_model
from runtime.kernels.reference import Floats, Matrix
from runtime.kernels.selftest import count_different

HOSTILE = np.float32([0, -0.0, np.nan, np.inf, -np.inf, 1e-45, 1e-31, 1e-30, 3e38, -3e38, 1, -1])


@pytest.fixture(scope="module")
def library(native_library: Path) -> Library:
    return open_library()


def run(library: Library, matrix: Matrix, x: Floats, threads: int = 2) -> Floats:
    """The operator on ``x`` [..., K]."""
    n, k = matrix.codes.shape
    constants = packed([matrix])
    sizes = {"K": k, "N": n, "bits": matrix.bits, "block_size": matrix.block}
    names = [name if name == "A" or name in constants else "" for name in ("A", "codes", "scales", "zero_points")]
    axes = tuple(f"axis{axis}" for axis in range(x.ndim))
    types = {"A": ValueType("float32", axes)}, {"Y": ValueType("float32", axes)}
    options = ort.SessionOptions()
    options.log_severity_level = 4
    library.register(options, threads)
    model = encode_model([Node("MatMulPanel", names, ["Y"], sizes)], *types, constants)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"A": x})
    return np.asarray(y)


def check(library: Library, matrix: Matrix, x: Floats) -> None:
    n, k = matrix.codes.shape
    y = run(library, matrix, x)
    assert y.shape == (*x.shape[:-1], n)
    with np.errstate(all="ignore"):
        expected = reference.multiply(x.reshape(-1, k), matrix)
    assert count_different(y.reshape(-1, n), expected) == 0


@settings(deadline=None, max_examples=60)
@given(
    k=st.integers(1, 300),
    n=st.integers(1, 70),
    bits=st.sampled_from((4, 8)),
    block=st.sampled_from((32, 64, 128)),
    half=st.booleans(),
    own_zeros=st.booleans(),
    leading=st.lists(st.integers(0, 6), max_size=4),
    seed=st.integers(0, 99),
)
def test_any_shape_gives_the_specified_bits(
    library: Library,
    k: int,
    n: int,
    bits: int,
    block: int,
    half: bool,
    own_zeros: bool,
    leading: Sequence[int],
    seed: int,
) -> None:
    matrix = make_matrix(n, k, bits, block, half=half, own_zeros=own_zeros, seed=seed)
    rng: Any = np.random.default_rng(seed)
    x = rng.standard_normal((*leading, k)).astype(np.float32)
    x[rng.random(x.shape) < 0.01] = rng.choice(HOSTILE)
    check(library, matrix, x)


@pytest.mark.parametrize("value", HOSTILE, ids=str)
def test_rows_of_one_hostile_value_give_the_specified_bits(library: Library, value: float) -> None:
    check(library, make_matrix(17, 96, 4, 32, half=True, own_zeros=False), np.full((1, 3, 96), value, np.float32))


def test_what_is_not_finite_stays_in_its_row(library: Library) -> None:
    matrix = make_matrix(20, 64, 4, 32, half=True, own_zeros=False)
    x = np.ones((5, 64), np.float32)
    x[1, 3], x[3, 60] = np.nan, np.inf
    finite = np.isfinite(run(library, matrix, x)).all(1)
    assert finite.tolist() == [True, False, True, False, True]


def test_thousands_of_rows_and_one_column(library: Library) -> None:
    matrix = make_matrix(1, 40, 4, 32, half=True, own_zeros=True)
    check(library, matrix, np.random.default_rng(0).standard_normal((5000, 40)).astype(np.float32))
