"""What a process takes without a model: measured here, or else as written down."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, replace
from typing import Any

import pytest

from memory import Request, make_plan
from memory.footprint import LIBRARIES, process_of
from memory.process import REFERENCE, ProcessBytes, find_process, read_process
from tests.devices import AMPLE
from tests.memory.manifests import PAIR

HEAVY = ProcessBytes(50_000_000, 2_000_000, 70_000_000)


def test_a_plan_counts_what_was_measured_for_its_kernels() -> None:
    request = Request(context=2048)
    before, after = (
        make_plan(PAIR, replace(AMPLE, processes=processes), request) for processes in ({}, {"native": HEAVY})
    )
    written = REFERENCE["native"]
    assert process_of(before.process) == written
    assert process_of(after.process) == HEAVY
    assert after.process.part(LIBRARIES).hot == HEAVY.files
    more = HEAVY.modules + HEAVY.session - written.modules - written.session
    assert after.anonymous_bytes - before.anonymous_bytes == more
    portable = replace(AMPLE, kernels="portable", processes={"native": HEAVY})
    assert process_of(make_plan(PAIR, portable, request).process) == REFERENCE["portable"]


def test_what_was_measured_is_read_as_it_was_written() -> None:
    assert read_process(json.loads(json.dumps(asdict(HEAVY)))) == HEAVY


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"modules": 1, "session": 1},
        {"modules": 0, "session": 1, "files": 1},
        {"modules": 1, "session": -1, "files": 1},
        {"modules": "many", "session": 1, "files": 1},
        {"modules": 1e400, "session": 1, "files": 1},
        {"modules": 1, "session": 1, "files": 1, "more": 1},
        None,
        [1, 2, 3],
    ],
)
def test_what_no_process_can_have_is_no_measurement(data: Any) -> None:
    assert read_process(data) is None


@pytest.mark.parametrize("told", ["", "null", "no JSON", "[]", '{"modules": 1}'])
def test_without_a_measurement_what_is_written_down_stands_in(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.CompletedProcess([], 0, stdout=told, stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert find_process("portable") == REFERENCE["portable"]


def test_a_runtime_that_cannot_be_started_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no memory for a process")

    monkeypatch.setattr(subprocess, "run", fail)
    assert find_process("native") == REFERENCE["native"]
