"""A library is trusted after its self-test alone: every fault ends in one line that says what to do, in no crash."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.kernels import library
from runtime.kernels.backends import PORTABLE
from runtime.kernels.build import SOURCES, VERSION, build
from runtime.kernels.library import KernelsError, LibraryVerdict, judge, open_library
from runtime.kernels.selftest.cases import Trial, cases, refusals
from runtime.kernels.selftest.golden import digest_of_inputs, digest_of_outputs
from runtime.kernels.selftest.run import SelfTestResult, count_different, try_library
from runtime.kernels.weights.layout import LAYOUT_VERSION

REMEDY = "python -m runtime kernels --build builds it"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the library is looked for; nothing is there yet, and nothing on record."""
    path = tmp_path / "libpocketspec.so"
    monkeypatch.setenv("POCKETSPEC_LIBRARY", str(path))
    monkeypatch.setenv("POCKETSPEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(library, "_passing", {})
    return path


def compile_library(place: Path, compiler: str, text: str) -> None:
    """A library of a few lines: RegisterCustomOps and pocketspec_kernels are in ``text``."""
    source = place.with_suffix(".cpp")
    source.write_text(f'#include <cstdlib>\n#define SHOWN extern "C" __attribute__((visibility("default")))\n{text}')
    subprocess.run([compiler, "-shared", "-fPIC", str(source), "-o", str(place)], check=True)


DESCRIBED = f'SHOWN const char* pocketspec_kernels() {{ return "{{\\"layout\\": {LAYOUT_VERSION}}}"; }}\n'


def test_a_good_library_is_tested_once_and_describes_itself(
    native_library: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(native_library, place)
    first = open_library()
    assert first.path == place
    assert (first.verdict.version, first.verdict.layout, first.verdict.fault) == (VERSION, LAYOUT_VERSION, None)
    assert first.verdict.isa == first.verdict.usable[0]
    assert set(first.verdict.usable) <= set(first.verdict.compiled)
    assert first.verdict.usable[-1] == "portable"
    monkeypatch.setattr(library, "judge", lambda path: pytest.fail("tested again"))
    assert open_library() == first


def test_a_record_holds_for_one_library_one_device_and_one_instruction_set(
    native_library: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[Path] = []
    monkeypatch.setattr(library, "judge", lambda path: judged.append(path) or LibraryVerdict(layout=LAYOUT_VERSION))
    place.write_bytes(b"one")
    open_library()
    open_library()
    assert len(judged) == 1
    place.write_bytes(b"two")
    open_library()
    assert len(judged) == 2
    monkeypatch.setenv("POCKETSPEC_ISA", "portable")
    open_library()
    assert len(judged) == 3
    monkeypatch.setattr(library, "device_key", lambda: ["another ONNX Runtime"])
    open_library()
    assert len(judged) == 4
    library.verdict_on(place, fresh=True)
    assert len(judged) == 5


@pytest.mark.parametrize("isa", ["portable", "avx2", "neon_dot"])
def test_a_forced_instruction_set_passes_the_same_test(
    native_library: Path, place: Path, monkeypatch: pytest.MonkeyPatch, isa: str
) -> None:
    if isa not in judge(native_library).usable:
        pytest.skip(f"this processor or this library has no {isa}")
    shutil.copy(native_library, place)
    monkeypatch.setenv("POCKETSPEC_ISA", isa)
    assert open_library().verdict.isa == isa


def test_an_unknown_instruction_set_is_named(
    native_library: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(native_library, place)
    monkeypatch.setenv("POCKETSPEC_ISA", "mmx")
    with pytest.raises(KernelsError, match="POCKETSPEC_ISA=mmx"):
        open_library()


def test_no_library_is_told_with_the_command_that_builds_one(place: Path) -> None:
    with pytest.raises(KernelsError, match=r"^the native kernels are not built; python -m runtime kernels --build"):
        open_library()


def test_a_library_that_cannot_be_loaded_is_told(native_library: Path, place: Path) -> None:
    whole = native_library.read_bytes()
    # Bytes 18 and 19 of an ELF file are its machine; 2 is SPARC.
    other_machine = whole[:18] + b"\x02\x00" + whole[20:]
    for data in (b"not a library", other_machine, whole[: len(whole) // 3]):
        place.write_bytes(data)
        with pytest.raises(KernelsError) as told:
            open_library()
        message = str(told.value)
        assert message.startswith(f"{place} came to no end of its self-test: it c")
        assert REMEDY in message
        assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("SHOWN void* RegisterCustomOps(void*, void*) { std::abort(); }\n" + DESCRIBED, "it crashed with signal 6"),
        (
            "SHOWN void* RegisterCustomOps(void*, void*) { return nullptr; }\n",
            "it cannot be loaded: .*pocketspec_kernels",
        ),
        (DESCRIBED, "RegisterCustomOps"),
        ("SHOWN void* RegisterCustomOps(void*, void*) { return nullptr; }\n" + DESCRIBED, "pocketspec:MatMulPanel"),
        ('SHOWN const char* pocketspec_kernels() { return "?"; }\n', "what it says of itself cannot be read"),
        ("SHOWN void* RegisterCustomOps(void*, void*) { for (;;) {} }\n" + DESCRIBED, "it took more than 2 s"),
    ],
    ids=["crashes", "no description", "no entry", "no operators", "no JSON", "hangs"],
)
def test_a_library_that_misbehaves_is_told(
    compiler: str, place: Path, monkeypatch: pytest.MonkeyPatch, text: str, fault: str
) -> None:
    if "more than 2 s" in fault:
        monkeypatch.setattr(library, "_PATIENCE_SECONDS", 2)
    compile_library(place, compiler, text)
    judged: list[Path] = []
    monkeypatch.setattr(library, "judge", lambda path: judged.append(path) or judge(path))
    for _ in range(2):
        with pytest.raises(KernelsError, match=f"came to no end of its self-test: .*{fault}") as told:
            open_library()
        assert REMEDY in str(told.value)
        assert "the next start tries again, and --kernels portable does without" in str(told.value)
        assert "\n" not in str(told.value)
    assert judged == [place], "one start tests once"


OUTSIDE = {
    "a time-out": subprocess.TimeoutExpired([], 1),
    "no process": OSError(11, "Resource temporarily unavailable"),
    "killed": subprocess.CompletedProcess[str]([], -9, "", ""),
    "a limit on the stack": subprocess.CompletedProcess[str]([], -11, "", ""),
    "no memory": subprocess.CompletedProcess[str]([], 1, "", "MemoryError"),
    "no answer": subprocess.CompletedProcess[str]([], 0, "", ""),
    "an error in the middle": subprocess.CompletedProcess[str](
        [], 0, json.dumps({"description": "{}", "fault": "bad allocation", "about": "trial", "note": None}), ""
    ),
}


@pytest.fixture(scope="module")
def answer(native_library: Path) -> subprocess.CompletedProcess[str]:
    """What the process says that tests the library."""
    return library.run_module("runtime.kernels.selftest.run", str(native_library), timeout=60)


@pytest.mark.parametrize("what", OUTSIDE)
def test_what_is_no_verdict_about_the_library_is_tried_again_at_the_next_start(
    native_library: Path,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    answer: subprocess.CompletedProcess[str],
) -> None:
    def outside(*arguments: str, timeout: float) -> Any:
        if isinstance(OUTSIDE[what], Exception):
            raise OUTSIDE[what]
        return OUTSIDE[what]

    shutil.copy(native_library, place)
    monkeypatch.setattr(library, "run_module", outside)
    with pytest.raises(KernelsError, match="the next start tries again"):
        open_library()
    monkeypatch.setattr(library, "run_module", lambda *arguments, timeout: answer)
    monkeypatch.setattr(library, "_passing", {})  # as in another process
    assert open_library().path == place


@pytest.mark.parametrize(
    "value", [5, {}, {"fault": None}, {"fault": 1, "about": "library", "note": None, "layout": []}]
)
def test_a_record_that_is_none_is_as_if_there_were_none(
    place: Path, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    monkeypatch.setattr(library, "judge", lambda path: LibraryVerdict(layout=LAYOUT_VERSION))
    place.write_bytes(b"one")
    monkeypatch.setattr(library, "look_up", lambda folder, name, key: (value, True))
    assert open_library().verdict.layout == LAYOUT_VERSION


def test_nothing_of_the_current_folder_takes_part(
    native_library: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program's modules beside which the user happens to work."""
    folder = tmp_path / "elsewhere"
    (folder / "runtime").mkdir(parents=True)
    for name in ("runtime/__init__", "json", "numpy"):
        (folder / f"{name}.py").write_text("raise ImportError('imported from the current folder')\n")
    shutil.copy(native_library, place)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr("sys.path", ["", *sys.path])
    assert open_library().path == place


def test_a_wrong_number_is_found(compiler: str, place: Path, tmp_path: Path) -> None:
    """Rounding down instead of to the nearest: what a compiler or an emulator that cuts corners would do."""
    folder = tmp_path / "native"
    shutil.copytree(SOURCES, folder, ignore=shutil.ignore_patterns("testing", "isa_a*", "isa_n*"))
    lanes = folder / "lanes_portable.h"
    lanes.write_text(lanes.read_text().replace("std::nearbyintf", "std::floor"))
    build(place, sources=folder, flags=["-O0"])
    with pytest.raises(KernelsError, match=r"MatMulPanel \(int4.*values of Y \[1x1x37\] are not those specified"):
        open_library()


def test_a_library_for_another_layout_is_refused() -> None:
    description = json.dumps({"layout": LAYOUT_VERSION + 1, "version": "9"})
    verdict = library._read_verdict(json.dumps({"description": description, **asdict(SelfTestResult())}))
    assert (
        verdict.fault == f"it reads weights of layout {LAYOUT_VERSION + 1}, this version packs layout {LAYOUT_VERSION}"
    )
    assert (verdict.version, verdict.about) == ("9", "library")


def with_a_bit_turned(array: np.ndarray) -> np.ndarray:
    changed = array.copy()
    changed.view(f"u{array.itemsize}").reshape(-1)[-1] ^= 1
    return changed


def test_the_self_test_tells_every_operator_apart(native_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one bit of one expected output turned, in the golden bits as well, it is that case that is named."""
    every = list(cases())
    assert {case.operator for case in every} == {
        "MatMulPanel",
        "GatherPanel",
        "CachedAttention",
        "LinearRecurrence",
        "Router",
        "RoutedExperts",
        "ShortConvolution",
    }
    for case in every:
        trial = case.trials[-1]
        for name, array in trial.expected.items():
            wrong = Trial(trial.given, {**trial.expected, name: with_a_bit_turned(array)})
            broken = replace(case, trials=[wrong])
            golden = {case.name: [digest_of_inputs(broken), digest_of_outputs(broken)]}
            monkeypatch.setattr("runtime.kernels.selftest.run.cases", lambda broken=broken: iter([broken]))
            monkeypatch.setattr("runtime.kernels.selftest.run.digests", lambda golden=golden: golden)
            finding = try_library(native_library)
            assert finding.fault is not None
            assert finding.fault.startswith(f"{case.name} on 1 thread: 1 values of {name} [")
            assert finding.about == "library"


def test_a_wrong_reference_is_told_and_the_library_is_not_blamed(
    native_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NumPy's exp2 was: what the reference expects is not what the golden bits say, and the library has these."""
    case = next(cases())
    trial = case.trials[-1]
    wrong = Trial(trial.given, {"Y": with_a_bit_turned(trial.expected["Y"])})
    broken = replace(case, trials=[*case.trials[:-1], wrong])
    monkeypatch.setattr("runtime.kernels.selftest.run.cases", lambda: iter([broken]))
    finding = try_library(native_library)
    assert finding.fault is None
    assert (
        finding.note
        == f"{case.name}: NumPy {np.__version__} gives other bits than it should here; the library is right"
    )


def test_inputs_that_were_made_wrongly_are_no_verdict(native_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(cases())
    broken = replace(case, constants={**case.constants, "scales": with_a_bit_turned(case.constants["scales"])})
    monkeypatch.setattr("runtime.kernels.selftest.run.cases", lambda: iter([broken]))
    finding = try_library(native_library)
    assert (finding.about, finding.note) == ("reference", None)
    assert finding.fault == f"{case.name}: NumPy {np.__version__} is given other bits than it should here"


def test_refusals_must_come_and_name_what_is_wrong(native_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (_, right), (tensor, wrong) = ("A", next(cases())), next(refusals())
    monkeypatch.setattr("runtime.kernels.selftest.run.cases", lambda: iter(()))
    for named, case, fault in (
        (tensor, wrong, None),
        ("A", right, "MatMulPanel takes A of a wrong size"),
        ("Nonsense", wrong, "it refuses a wrong Nonsense with: .*MatMulPanel.*codes"),
    ):
        monkeypatch.setattr(
            "runtime.kernels.selftest.run.refusals", lambda named=named, case=case: iter([(named, case)])
        )
        found = try_library(native_library).fault
        assert found == fault or re.match(str(fault), str(found))
    assert {name for name, _ in refusals()} == {"codes", "A", "qkv"}


def test_values_are_compared_by_bits() -> None:
    ones = np.ones((2, 3), np.float32)
    assert count_different(ones, ones) == 0
    assert count_different(np.float32([0.0]), np.float32([-0.0])) == 1
    assert count_different(np.float32([np.nan]), -np.float32([np.nan])) == 0
    assert count_different(ones, ones[:, :2]) == 0, "the first entries of a larger output"
    assert count_different(ones[:, :2], ones) == 6
    assert count_different(ones, ones.astype(np.float64)) == 6
    assert count_different(np.int8([1, 2]), np.int8([1, 3])) == 1


def test_sessions_get_the_threads_they_are_asked_for(native_library: Path, place: Path) -> None:
    shutil.copy(native_library, place)
    options = PORTABLE.session_options(None)
    open_library().register(options, 3)
    assert options.intra_op_num_threads == 3
    assert options.get_session_config_entry("pocketspec.threads") == "3"


def test_a_package_that_cannot_be_written_has_its_library_in_the_users_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POCKETSPEC_LIBRARY", raising=False)
    monkeypatch.setenv("POCKETSPEC_CACHE", str(tmp_path))
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "package" / "libpocketspec.so")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    path = library.library_path()
    assert path.parent == tmp_path
    changed = shutil.copytree(SOURCES, tmp_path / "native")
    (changed / "panel.h").write_text("changed")
    monkeypatch.setattr(library, "SOURCES", changed)
    assert library.library_path() != path, "sources of another version must not find an old library"
