"""``python -m runtime kernels``: what it says of this processor, its table, and its refusals."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memory.cores import read_cores
from runtime.__main__ import main
from runtime.hardware import processor_features
from runtime.kernels import library
from runtime.kernels.build import INSTRUCTION_SETS, LIBRARY_NAME
from runtime.kernels.library import Library, open_library
from runtime.kernels.timing import instruction_sets as comparison
from runtime.kernels.timing import rows as curve
from runtime.kernels.timing.instruction_sets import Comparison
from runtime.kernels.timing.rows import ProductShape, measure
from tests.places import ROOT


@pytest.fixture(autouse=True)
def _small_working_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve, "_WORKING_SET_BYTES", 1 << 16)


def test_every_instruction_set_is_explained(native_library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernels", "--rows", "0"]) == 0
    out = capsys.readouterr().out
    verdict = open_library().verdict
    assert f"library: {native_library} (version {verdict.version}, layout {verdict.layout})" in out
    assert re.search(r"self-test with ONNX Runtime 1\.\d+\.\d+: passed", out)
    assert f"kernels in use: native ({verdict.isa})" in out
    reasons = dict(re.findall(r"^  (\w+) +(.*)$", out, re.MULTILINE))
    assert set(reasons) == {isa.name for isa in INSTRUCTION_SETS}
    assert [name for name, reason in reasons.items() if reason == "used"] == [verdict.isa]
    for isa in INSTRUCTION_SETS:
        if isa.name not in verdict.compiled:
            assert reasons[isa.name] == "not in this library"
        elif isa.name not in verdict.usable:
            lacking = [name for name in isa.features if name not in processor_features()]
            assert lacking
            assert reasons[isa.name] == f"this processor lacks {', '.join(lacking)}"


def test_costs_are_a_table_and_json(native_library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["kernels", "--rows", "1,3", "--shape", "96x64", "--shape", "64x32", "--block-size", "32"]
    assert main([*arguments, "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "int4 in blocks of 32, threads 1; medians, both kernels in turns" in out
    rows = [line.split(" | ") for line in out.splitlines() if line.startswith(("| 96", "| 64"))]
    assert [(row[0], row[1]) for row in rows] == [
        ("| 96 x 64", "1"),
        ("| 96 x 64", "3"),
        ("| 64 x 32", "1"),
        ("| 64 x 32", "3"),
    ]
    assert [row[3] for row in rows[::2]] == ["1.00", "1.00"]
    assert main([*arguments, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["fault"], data["isa"], data["threads"]) == (None, open_library().verdict.isa, read_cores().usable)
    assert [(each["k"], each["n"], each["rows"]) for each in data["curve"]] == [
        (96, 64, 1),
        (96, 64, 3),
        (64, 32, 1),
        (64, 32, 3),
    ]
    for each in data["curve"]:
        assert each["native_ms"] > 0
        assert each["portable_ms"] > 0


def test_bytes_are_those_of_codes_and_scales(native_library: Path) -> None:
    (timing,) = measure(open_library(), ProductShape(100, 40), [2], 32, 1)
    padded_k, padded_n, blocks = 128, 48, 4
    assert timing.native_bytes == padded_n * padded_k // 2 + padded_n * blocks * 2
    assert timing.portable_bytes == 40 * padded_k // 2 + 40 * blocks * 4
    assert timing.native_rate == pytest.approx(timing.native_bytes / timing.native_seconds)


def test_times_are_of_one_product(native_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that says every call takes a second; four copies of the codes fill the working set."""
    ticks = itertools.count()
    monkeypatch.setattr(curve, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(curve, "_WORKING_SET_BYTES", 4 * 96 * 64 // 2)
    for timing in measure(open_library(), ProductShape(96, 64), [1, 2], 32, 1):
        assert timing.native_seconds == timing.portable_seconds == 1 / 4


def test_both_kernels_are_timed_on_the_same_product(native_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With codes that mean the same weight everywhere, both give the same product."""
    monkeypatch.setattr(curve, "_codes", lambda shape, rng: np.full(shape, 0x99, np.uint8))
    seen: list[np.ndarray] = []
    session = curve.ort.InferenceSession

    class Spy(session):  # type: ignore[misc, valid-type]
        def run(self, names, given):  # type: ignore[no-untyped-def]
            found = super().run(names, {"A": np.ones_like(given["A"])})
            seen.extend(found)
            return found

    monkeypatch.setattr(curve.ort, "InferenceSession", Spy)
    measure(open_library(), ProductShape(96, 48), [2], 32, 1)
    assert {array.shape for array in seen} == {(1, 2, 48)}
    for array in seen:
        np.testing.assert_allclose(array, 96.0, rtol=1e-5)


def test_instruction_sets_are_compared_on_the_same_work(
    native_library: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each in sessions of its own, and the choice of a set is taken back."""
    monkeypatch.setattr(comparison, "_TURNS", 3)
    monkeypatch.delenv("POCKETSPEC_ISA", raising=False)
    usable = [name for name in open_library().verdict.usable if name != "portable"]
    if len(usable) < 2:
        pytest.skip("this processor has one instruction set")
    registered: list[str | None] = []
    register = Library.register

    def seen(self: Library, options: Any, threads: int) -> None:
        registered.append(os.environ.get("POCKETSPEC_ISA"))
        register(self, options, threads)

    monkeypatch.setattr(Library, "register", seen)
    assert main(["kernels", "--compare-sets", "--threads", "1", "--json"]) == 0
    sets = json.loads(capsys.readouterr().out)["sets"]
    assert len(sets) == 4 * (2 + 4)
    for kind in ("int4 product", "int8 product", "of fp32", "of fp16", "of int8", "of int4"):
        assert sum(kind in each["work"] for each in sets) == 4
    assert all(list(each["ms"]) == usable and min(each["ms"].values()) > 0 for each in sets)
    assert registered == usable * len(sets)
    assert "POCKETSPEC_ISA" not in os.environ
    assert main(["kernels", "--compare-sets", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-26] == f"| work | {usable[0]} ms |" + "".join(f" {name} |" for name in usable[1:])
    assert lines[-1].startswith("| attention over 1000 rows of int4, rows 16 | ")


def test_a_ratio_is_to_the_best_set() -> None:
    assert Comparison("work", {"avx512vnni": 2.0, "avx2": 3.0}).ratios == {"avx512vnni": 1.0, "avx2": 1.5}


def test_without_a_library_portable_kernels_are_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POCKETSPEC_LIBRARY", str(tmp_path / LIBRARY_NAME))
    assert main(["kernels"]) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[0] == f"library: {tmp_path / LIBRARY_NAME}"
    assert re.fullmatch(
        r"kernels in use: portable \(ONNX Runtime .*\), since the native kernels are not built; python -m runtime"
        r" kernels --build builds them",
        out.splitlines()[-1],
    )
    assert main(["kernels", "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["isa"] is None
    assert "not built" in data["fault"]


def test_build_builds_and_tests(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the build itself does has its own tests; here it is enough that it is asked and then tried."""
    made = tmp_path / LIBRARY_NAME
    monkeypatch.setenv("POCKETSPEC_LIBRARY", str(made))
    monkeypatch.setattr("runtime.kernels.build.build", lambda path: (path.write_bytes(b"x"), ("portable",))[1])
    assert main(["kernels", "--build", "--rows", "0"]) == 1
    out, err = capsys.readouterr()
    assert err == f"note: built {made} with portable\n"
    assert "came to no end of its self-test: it cannot be loaded" in out
    monkeypatch.undo()
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert main(["kernels", "--build"]) == 2
    assert capsys.readouterr().err.startswith("error: no compiler 'no-such-compiler' on this machine; install g++")


def test_the_self_test_runs_again_whatever_is_on_record(native_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_library()
    judged: list[Path] = []
    judge = library.judge
    monkeypatch.setattr(library, "judge", lambda path: judged.append(path) or judge(path))
    assert main(["kernels", "--rows", "0"]) == 0
    assert judged == [native_library]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "1;2"], "--rows 1;2: write counts with commas, as in 1,2,4,8,16"),
        (["--rows", "0,1"], "--rows 0,1: a forward has at least 1 row"),
        (["--shape", "1536"], "--shape 1536: write inputs and outputs as KxN, as in 1536x8960"),
        (["--shape", "0x5"], "--shape 0x5: write inputs"),
        (["--threads", "0"], "--threads 0: it must be at least 1"),
    ],
)
def test_refusals_come_first_and_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.setattr(library, "judge", lambda path: pytest.fail("tested"))
    assert main(["kernels", "--build", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


@pytest.mark.slow
def test_the_default_curve_is_measured(native_library: Path) -> None:
    """At the size of a real model: five products, five numbers of rows."""
    command = [sys.executable, "-m", "runtime", "kernels", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert len(json.loads(done.stdout)["curve"]) == 25
