"""MatMulPanel through ONNX Runtime on shapes and values that nobody plans for: the specified bits, never a crash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.kernels.library import Library, open_library
from runtime.kernels.selftest import reference
from runtime.kernels.selftest.matrices import make_matrix, packed
from runtime.kernels.selftest.numbers import Numbers
from runtime.kernels.selftest.onnx_bytes import GraphNode, ValueType, encode_model
from runtime.kernels.selftest.reference import Floats, QuantizedMatrix
from runtime.kernels.selftest.run import count_different

HOSTILE = np.float32([0, -0.0, np.nan, np.inf, -np.inf, 1e-45, 1e-31, 1e-30, 3e38, -3e38, 1, -1])


@pytest.fixture(scope="module")
def library(native_library: Path) -> Library:
    return open_library()


def run(library: Library, matrix: QuantizedMatrix, x: Floats, threads: int = 2) -> Floats:
    """The operator on ``x`` [..., K]."""
    n, k = matrix.codes.shape
    constants = packed([matrix])
    sizes = {"K": k, "N": n, "bits": matrix.bits, "block_size": matrix.block}
    sizes |= {"planes": matrix.planes} if matrix.planes != 1 else {}
    names = [name if name == "A" or name in constants else "" for name in ("A", "codes", "scales", "zero_points")]
    axes = tuple(f"axis{axis}" for axis in range(x.ndim))
    types = {"A": ValueType("float32", axes)}, {"Y": ValueType("float32", axes)}
    options = ort.SessionOptions()
    options.log_severity_level = 4
    library.register(options, threads)
    model = encode_model([GraphNode("MatMulPanel", names, ["Y"], sizes)], *types, constants)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"A": x})
    return np.asarray(y)


def check(library: Library, matrix: QuantizedMatrix, x: Floats) -> None:
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


class Given:
    """MatMulPanel in a graph that holds nothing but ``constants``: weights, bias and gain are inputs."""

    K, N = 96, 20

    def __init__(self, library: Library, constants: Sequence[str] = ()) -> None:
        self.held = {name: array for name, array in self.weights(0).items() if name in constants}
        names = ("A", "codes", "scales", "zero_points", "bias", "gain")
        given = {name: ValueType(array.dtype.name, self._axes(name, array)) for name, array in self.inputs(0).items()}
        sizes = {"K": self.K, "N": self.N, "bits": 4, "block_size": 32, "epsilon": 1e-6}
        node = GraphNode("MatMulPanel", names, ["Y"], sizes)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        library.register(options, 1)
        model = encode_model([node], given, {"Y": ValueType("float32", ("r", "n"))}, self.held)
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    @staticmethod
    def _axes(name: str, array: Any) -> tuple[str, ...]:
        return tuple(f"{name}{axis}" for axis in range(array.ndim))

    def matrix(self, seed: int) -> QuantizedMatrix:
        return make_matrix(self.N, self.K, 4, 32, half=bool(seed % 2), own_zeros=True, seed=seed)

    def weights(self, seed: int) -> dict[str, Any]:
        numbers = Numbers(seed)
        scales = {"scales": packed([self.matrix(seed)])["scales"].astype(np.float16)}
        return {
            **packed([self.matrix(seed)]),
            **scales,
            "bias": numbers.bell((self.N,)),
            "gain": numbers.bell((self.K,)),
        }

    def inputs(self, seed: int) -> dict[str, Any]:
        found = {"A": Numbers(seed, 1).bell((3, self.K)), **self.weights(seed)}
        return {name: array for name, array in found.items() if name not in self.held}

    def run(self, inputs: dict[str, Any]) -> Floats:
        return np.asarray(self._session.run(None, inputs)[0])

    def expected(self, seed: int) -> Floats:
        whole = {**self.weights(seed), **self.held}
        kept = 0 if "codes" in self.held else seed
        matrix = replace(self.matrix(kept), scales=self.matrix(kept).scales.astype(np.float16))
        x = self.inputs(seed)["A"]
        return reference.matmul_panel(x, [matrix], bias=whole["bias"], gain=whole["gain"], epsilon=1e-6)


@pytest.mark.parametrize(
    "constants", [(), ("codes", "scales", "zero_points"), ("codes", "scales", "zero_points", "bias")], ids=str
)
def test_what_a_call_is_given_is_what_it_uses(library: Library, constants: Sequence[str]) -> None:
    """Nothing of an earlier call: other gains, biases and weights, elsewhere or in the same place."""
    given = Given(library, constants)
    place = {name: array.copy() for name, array in given.inputs(0).items()}
    for seed in (0, 1, 2, 1):
        assert count_different(given.run(given.inputs(seed)), given.expected(seed)) == 0
        for name, array in given.inputs(seed).items():
            place[name][:] = array
        assert count_different(given.run(place), given.expected(seed)) == 0


@pytest.mark.parametrize("name", ["codes", "scales", "zero_points", "bias", "gain"])
def test_a_later_call_is_checked_as_the_first_one(library: Library, name: str) -> None:
    """Also where what is too small begins at the same address."""
    given = Given(library)
    inputs = given.inputs(0)
    assert count_different(given.run(inputs), given.expected(0)) == 0
    for wrong in (inputs[name][:-1], inputs[name][:0]):
        with pytest.raises(Exception, match=f"MatMulPanel.*{name} has"):
            given.run({**inputs, name: wrong})
    assert count_different(given.run(inputs), given.expected(0)) == 0


@pytest.mark.parametrize("block", [32, 64, 128])
def test_codes_in_two_planes_give_the_bits_of_whole_codes(library: Library, block: int) -> None:
    matrix = make_matrix(37, 203, 8, block, half=True, own_zeros=False, planes=2)
    x = Numbers(block).bell((19, 203))
    whole = run(library, replace(matrix, planes=1), x)
    for rows in (1, 3, 8, 16, 19):
        np.testing.assert_array_equal(run(library, matrix, x[:rows]), whole[:rows])


def test_planes_of_other_codes_are_refused(library: Library) -> None:
    for matrix in (
        make_matrix(16, 32, 4, 32, half=True, own_zeros=False, planes=2),
        make_matrix(16, 32, 8, 32, half=True, own_zeros=True, planes=2),
    ):
        with pytest.raises(Exception, match=r"MatMulPanel.*planes"):
            run(library, matrix, np.zeros((1, 32), np.float32))
