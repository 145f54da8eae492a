"""Portable kernels on all threads or one: the same text, changed in the midst of an answer or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from memory import Request
from runtime.engine import Engine
from runtime.models import ort_model as model_module
from runtime.models.single_thread_session import SessionCrew, waiting_seconds
from runtime.models.thread_choice import WorkerChoice
from runtime.speculation.request import PLAIN
from tests.memory.test_device import write

TOKENS = [65, 66, 67, 68, 69]


@pytest.fixture
def bundle(tiny_bundle_int4: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_bundle_int4, tmp_path / "bundle", ignore=shutil.ignore_patterns(".device"))


@pytest.fixture
def engine(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """Two threads, whatever the machine has, and a choice of workers that the test makes."""
    monkeypatch.setattr("memory.cores._affinity", lambda: {0, 1})
    monkeypatch.setattr(model_module, "_SOON_OPEN_SECONDS", 600.0)
    monkeypatch.setattr(WorkerChoice, "after", lambda self, kind, seconds: None)
    with Engine.open(bundle, Request(context=128, nodes=4), kernels="portable") as engine:
        yield engine


def sessions_of(engine: Engine) -> SessionCrew:
    sessions = engine.target._sessions
    assert sessions is not None
    return sessions


def choose(monkeypatch: pytest.MonkeyPatch, engine: Engine, numbers: list[int]) -> list[int]:
    """One number of workers after another, a forward each; returns those that were taken."""
    left, taken = list(numbers), list[int]()

    def after(self: WorkerChoice, kind: object, seconds: float) -> None:
        taken.append(sessions_of(engine).workers)
        if left:
            sessions_of(engine).workers = left.pop(0)

    monkeypatch.setattr(WorkerChoice, "after", after)
    return taken


def test_sessions_are_changed_in_the_midst_of_an_answer(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [chunk.text for chunk in engine.generate(TOKENS, max_new_tokens=30, speculation=PLAIN)]
    taken = choose(monkeypatch, engine, [1, 1, 2, 1, 2] * 4)
    again = [chunk.text for chunk in engine.generate(TOKENS, max_new_tokens=30, speculation=PLAIN)]
    assert again == expected
    assert {1, 2} <= set(taken)


def test_rows_in_the_cache_are_the_same(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> list[bytes]:
        engine.target.cache.rollback(0)
        results = [engine.target.forward([token]).logits.tobytes() for token in TOKENS]
        length = engine.target.cache.length
        return [
            *results,
            *(np.ascontiguousarray(array[:, :, :length]).tobytes() for array in engine.target.cache.arrays),
        ]

    expected = run()
    choose(monkeypatch, engine, [1, 2, 1, 1, 2])
    assert run() == expected


def test_a_session_with_other_bits_is_refused(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    model = engine.target
    model.cache.rollback(0)
    expected = [model.forward([token]).logits.copy() for token in TOKENS]
    kept = model._session

    class Spoilt:
        """A session whose logits are a little off."""

        def __getattr__(self, name: str) -> object:
            return getattr(kept, name)

        def run_with_iobinding(self, io: ort.IOBinding) -> None:
            kept.run_with_iobinding(io)
            model._buffers.logits[:] += 1

    sessions_of(engine)._open_single = lambda: Spoilt()  # type: ignore[assignment,return-value]
    choose(monkeypatch, engine, [1, 1, 1, 1])
    model.cache.rollback(0)
    again = [model.forward([token]).logits.copy() for token in TOKENS]
    assert all(np.array_equal(one, other) for one, other in zip(again, expected, strict=True))
    assert model._session is kept
    assert sessions_of(engine).workers == 2


def test_a_session_that_cannot_be_opened_is_not_tried_again(engine: Engine) -> None:
    sessions, tries = sessions_of(engine), []

    def fail() -> ort.InferenceSession:
        tries.append(1)
        raise model_module.UnsupportedModelError("no memory")

    sessions._open_single = fail
    for _ in range(3):
        sessions.workers = 1
        assert sessions.workers == 2
    assert len(tries) == 1


@pytest.mark.parametrize("reason", ["asked for", "slow to open"])
def test_only_models_that_open_soon_have_another_session(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    monkeypatch.setattr("memory.cores._affinity", lambda: {0, 1})
    monkeypatch.setattr(model_module, "_SOON_OPEN_SECONDS", 600.0 if reason == "asked for" else 0.0)
    request = Request(context=128, threads=2 if reason == "asked for" else None)
    with Engine.open(bundle, request, kernels="portable") as engine:
        assert engine.target._sessions is None


def test_waiting_for_processors_is_summed_over_threads(tmp_path: Path) -> None:
    write(tmp_path, {f"proc/self/task/{number}/schedstat": f"5 {number}000000000 7\n" for number in (1, 2)})
    write(tmp_path, {"proc/self/task/3/schedstat": "gone"})
    assert waiting_seconds(tmp_path) == 3.0
    assert waiting_seconds(tmp_path / "nothing") == 0.0
    assert waiting_seconds() >= 0.0
