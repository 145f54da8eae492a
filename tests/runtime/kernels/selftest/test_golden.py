"""What is compared bit for bit rests on whole numbers and IEEE 754, so it has the same bits with every NumPy."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime.kernels.selftest.cases import cases
from runtime.kernels.selftest.golden import ReferenceCheck, digests, judge_reference
from runtime.kernels.selftest.numbers import Numbers
from tests.places import ROOT

# References, expectations, and what decides which token is drawn.
EXACT = (
    *(
        f"runtime/kernels/selftest/{name}.py"
        for name in ("reference", "attention_reference", "cases", "golden", "numbers", "run")
    ),
    *("runtime/decoding/sampling.py", "runtime/arrays.py", "runtime/decoding/exact_math.py"),
    *(
        f"runtime/decoding/acceptance/{name}.py"
        for name in (
            "block",
            "coins",
            "greedy",
            "distributions",
            "sample_and_match",
            "recorded_block",
            "recursive",
            "rows",
        )
    ),
    "tests/runtime/decoding/golden_draws.py",
)
# What IEEE 754 leaves open, or what adds up in an order of its own, by the names of NumPy and of Python's math.
INEXACT = {
    *(
        "exp",
        "exp2",
        "expm1",
        "log",
        "log2",
        "log10",
        "log1p",
        "logaddexp",
        "logaddexp2",
        "float_power",
        "pow",
        "power",
    ),
    *("sin", "cos", "tan", "arcsin", "arccos", "arctan", "arctan2", "asin", "acos", "atan", "atan2", "sinc", "hypot"),
    *("sinh", "cosh", "tanh", "arcsinh", "arccosh", "arctanh", "asinh", "acosh", "atanh", "cbrt", "erf", "gamma"),
    *("default_rng", "RandomState", "standard_normal", "normal", "lognormal", "gumbel"),
    *("dot", "vdot", "inner", "matmul", "tensordot", "mean", "average", "std", "var", "linalg", "fft"),
}
# The same as methods of arrays.
METHODS = {"dot", "mean", "std", "sum", "var"}


def inexact_names(text: str) -> Iterator[str]:
    """Uses of what may differ from one processor to another."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and node.attr in INEXACT and _root(node) in {"np", "numpy", "math", "rng"}:
            yield f"{node.attr} in line {node.lineno}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            yield f"{node.func.attr} in line {node.lineno}"
        elif isinstance(node, ast.ImportFrom) and node.module in {"math", "numpy"}:
            yield from (f"{alias.name} in line {node.lineno}" for alias in node.names if alias.name in INEXACT)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            yield f"@ in line {node.lineno}"
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and not _is_power_of_two(node):
            yield f"** in line {node.lineno}"


def _root(node: ast.expr) -> str:
    """The name that a chain of attributes begins with."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _is_power_of_two(node: ast.BinOp) -> bool:
    """Of two constants, which Python works out when it compiles."""
    return isinstance(node.left, ast.Constant) and node.left.value in (2, 2.0)


@pytest.mark.parametrize("place", EXACT)
def test_nothing_rests_on_functions_that_ieee_754_leaves_open(place: str) -> None:
    assert list(inexact_names((ROOT / place).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("np.exp2(x)", "exp2 in line 1"),
        ("np.exp(x, out=x)", "exp in line 1"),
        ("np.random.default_rng", "default_rng in line 1"),
        ("x.sum(axis=1)", "sum in line 1"),
        ("x = 1\nrng.standard_normal(3)", "standard_normal in line 2"),
        ("from math import log", "log in line 1"),
        ("a @ b", "@ in line 1"),
        ("10.0 ** x", "** in line 1"),
    ],
)
def test_what_is_forbidden_is_found(text: str, told: str) -> None:
    assert list(inexact_names(text)) == [told]


def test_the_reference_has_the_golden_bits() -> None:
    golden, every = digests(), list(cases())
    assert list(golden) == [case.name for case in every]
    assert {judge_reference(case, golden) for case in every} == {ReferenceCheck.RIGHT}


def test_made_up_numbers_spread_as_they_say() -> None:
    """The first of them as of SplitMix64, whose first word for seed 0 is known."""
    assert Numbers()._words((1,))[0] == 0xE220A8397B1DCDAF
    whole = Numbers(1).integers(-3, 5, (1000,))
    assert set(whole.tolist()) == set(range(-3, 5))
    even = Numbers(2).uniform(0.5, 2, (1000,))
    assert even.dtype == np.float32
    assert 0.5 <= even.min() < 0.51 < 1.2 < np.median(even) < 1.3 < 1.99 < even.max() <= 2
    bell = Numbers(3).bell((4000,))
    assert abs(np.mean(bell)) < 0.05
    assert abs(np.std(bell) - 1) < 0.05
    assert not np.array_equal(Numbers(1, 2).bell((8,)), Numbers(2, 1).bell((8,)))


def dispatched() -> list[str]:
    """The instruction sets that NumPy has code for and that this processor has, by NumPy's own list."""
    try:
        from numpy._core import _multiarray_umath as umath
    except ImportError:
        pytest.skip("this NumPy does not tell what it dispatches to")
    return [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__.get(name)]


HERE = "tests/runtime/kernels"
BITS = [
    f"{HERE}/selftest/test_golden.py::test_the_reference_has_the_golden_bits",
    f"{HERE}/selftest/test_golden.py::test_made_up_numbers_spread_as_they_say",
    f"{HERE}/test_attention.py::test_values_are_stored_as_specified",
    "tests/runtime/decoding/test_golden_draws.py",
]
MORE = [
    f"{HERE}/selftest/test_reference.py",
    f"{HERE}/test_matmul_op.py",
    f"{HERE}/test_library.py::test_a_good_library_is_tested_once_and_describes_itself",
]


@pytest.mark.parametrize("parts", [BITS, pytest.param(MORE, marks=pytest.mark.slow)], ids=["bits", "more"])
def test_all_of_this_holds_with_numpys_instruction_sets_switched_off(native_library: Path, parts: list[str]) -> None:
    """The kernels' tests of bits once more, in a process whose NumPy has nothing but what it is compiled for."""
    names = dispatched()
    if not names or "NPY_DISABLE_CPU_FEATURES" in os.environ:
        pytest.skip("this NumPy has one instruction set here")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *parts],
        cwd=ROOT,
        env={**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(names)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
