"""The number of threads that operators use changes while a session is open, and nothing of what they compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from memory import Request
from runtime.calibration.measure import calibrate
from runtime.engine import Engine
from runtime.kernels.backends import PORTABLE
from runtime.kernels.library import open_library
from runtime.kernels.selftest.matrices import make_matrix, packed
from runtime.kernels.selftest.onnx_bytes import GraphNode, ValueType, encode_model
from runtime.kernels.threads import NativeCrew, crew_of

pytestmark = pytest.mark.usefixtures("native_library")
K, N = 512, 4096


def open_session(threads: int) -> ort.InferenceSession:
    """One product, large enough to be split among threads."""
    matrix = make_matrix(N, K, 4, 32, half=False, own_zeros=False)
    sizes = {"K": K, "N": N, "bits": 4, "block_size": 32}
    constants = packed([matrix])
    names = [name if name == "A" or name in constants else "" for name in ("A", "codes", "scales", "zero_points")]
    types = {"A": ValueType("float32", ("rows", "k"))}, {"Y": ValueType("float32", ("rows", "n"))}
    options = PORTABLE.session_options(threads)
    open_library().register(options, threads)
    return ort.InferenceSession(
        encode_model([GraphNode("MatMulPanel", names, ["Y"], sizes)], *types, constants), options
    )


def crew(session: ort.InferenceSession) -> NativeCrew:
    found = crew_of(session, open_library().path)
    assert found is not None
    return found


@pytest.mark.parametrize("rows", [1, 8])
def test_bits_do_not_depend_on_the_number_of_workers(rows: int) -> None:
    session = open_session(4)
    x = np.random.default_rng(rows).normal(size=(rows, K)).astype(np.float32)
    results = []
    for workers in (4, 1, 3, 2, 4):
        crew(session).workers = workers
        results.append(session.run(None, {"A": x})[0].tobytes())
    assert set(results) == {results[0]}


def test_a_single_worker_waits_for_nobody() -> None:
    session = open_session(2)
    x = np.ones((4, K), np.float32)
    crew(session).workers = 1
    for _ in range(20):
        session.run(None, {"A": x})
    assert crew(session).held_up_seconds == 0
    crew(session).workers = 2
    for _ in range(200):
        session.run(None, {"A": x})
    assert crew(session).held_up_seconds > 0


def test_every_session_has_a_crew_of_its_own() -> None:
    first, second = open_session(2), open_session(3)
    assert (crew(first).workers, crew(second).workers) == (2, 3)
    crew(first).workers = 1
    assert (crew(first).workers, crew(second).workers) == (1, 3)


def test_who_has_no_crew_is_told_so(tmp_path: Path) -> None:
    session = open_session(2)
    assert crew_of(session, tmp_path / "no-library.so") is None
    assert PORTABLE.crew(session) is None


@pytest.mark.parametrize(("threads", "chosen"), [(None, True), (2, False)])
def test_a_number_that_was_asked_for_stays(
    native_bundle: Path, monkeypatch: pytest.MonkeyPatch, threads: int | None, chosen: bool
) -> None:
    monkeypatch.setattr("memory.cores._affinity", lambda: {0, 1})
    told: list[object] = []
    monkeypatch.setattr(
        "runtime.models.thread_choice.WorkerChoice.after", lambda self, kind, seconds: told.append(kind)
    )
    with Engine.open(native_bundle, Request(context=128, threads=threads), kernels="native") as engine:
        engine.target.cache.rollback(0)
        engine.target.forward([65, 66])
    assert bool(told) is chosen


def test_who_times_forwards_has_the_same_workers_for_all_of_them(
    native_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memory.cores._affinity", lambda: {0, 1})
    told: list[object] = []
    monkeypatch.setattr(
        "runtime.models.thread_choice.WorkerChoice.after", lambda self, kind, seconds: told.append(kind)
    )
    with Engine.open(native_bundle, Request(context=128), kernels="native") as engine:
        told.clear()
        calibrate(engine, quick=True)
        assert told == []
        engine.target.forward([65, 66])
        assert len(told) == 1
