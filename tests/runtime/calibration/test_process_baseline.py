"""A process without a model is measured once, by a process of its own."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from memory.device import Device
from memory.process import REFERENCE, ProcessBytes, find_process
from runtime.bundle.device_cache import user_folder
from runtime.calibration import process_baseline as bare_process
from runtime.calibration.process_baseline import known_process, known_processes
from tests.devices import AMPLE

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process uses")
FOUND = ProcessBytes(3, 2, 5)


class Child:
    """Stands in for the process that measures; counts how often it is asked."""

    def __init__(self) -> None:
        self.runs = 0
        self.code, self.told = 0, '{"modules": 3, "session": 2, "files": 5}\n'

    def __call__(self, module: str, *arguments: str, timeout: float) -> subprocess.CompletedProcess[str]:
        self.runs += 1
        return subprocess.CompletedProcess([], self.code, self.told, "error: no")


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Child:
    child = Child()
    monkeypatch.setenv("POCKETSPEC_CACHE", str(tmp_path))
    monkeypatch.setattr(bare_process, "run_module", child)
    monkeypatch.setattr(bare_process, "read_memory", lambda: object())
    return child


def test_it_is_measured_once(child: Child) -> None:
    assert [known_process("portable") for _ in range(3)] == [FOUND] * 3
    assert child.runs == 1


def test_kinds_of_kernels_and_versions_of_libraries_have_numbers_of_their_own(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    known_process("portable")
    known_process("native")
    assert child.runs == 2
    monkeypatch.setattr(bare_process, "_version", lambda name: "another")
    known_process("portable")
    assert child.runs == 3


@pytest.mark.parametrize(("code", "told"), [(1, ""), (-9, ""), (0, "what?"), (0, '{"modules": 0}'), (0, "null")])
def test_a_failure_is_not_kept(child: Child, code: int, told: str) -> None:
    good = child.told
    child.code, child.told = code, told
    assert known_process("portable") is None
    child.code, child.told = 0, good
    assert known_process("portable") == FOUND


@pytest.mark.parametrize("text", ["", "[]", '{"key": 1}', '{"modules": 5'])
def test_a_damaged_record_is_measured_again(child: Child, text: str) -> None:
    known_process("portable")
    (user_folder() / "process-portable.json").write_text(text)
    assert known_process("portable") == FOUND
    assert child.runs == 2


def test_nothing_is_measured_where_there_is_no_room_for_two_processes(child: Child) -> None:
    assert known_processes(AMPLE, "prepacked") == {"portable": FOUND}
    small = replace(AMPLE, available_bytes=REFERENCE["native"].files * 2)
    assert known_processes(small, "native") == {}
    assert child.runs == 1


def test_a_system_that_does_not_tell_has_no_measurement(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bare_process, "read_memory", lambda: None)
    assert known_processes(Device(1 << 40, 1 << 40), "native") == {}
    assert child.runs == 0


@on_linux
def test_the_planner_finds_what_the_runtime_measured() -> None:
    found = find_process("portable")
    assert found == known_process("portable")
    # Within what other versions of libraries may make of it.
    for name, count in asdict(REFERENCE["portable"]).items():
        assert asdict(found)[name] == pytest.approx(count, rel=0.6)
