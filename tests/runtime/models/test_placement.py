"""Levels run where they are placed: their threads, their cores, their provider; nothing else is taken instead."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

import onnxruntime as ort
import pytest

from export.manifest import PocketspecError
from memory import Placement, Request
from runtime.engine import Engine
from runtime.kernels.backends import PORTABLE
from runtime.models.ort_model import OrtModel, open_session
from runtime.models.placement import CPU, on_cores
from tests.devices import AMPLE
from tests.runtime.tiny_graph import write_tiny_graph

pinning = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system lets no program choose cores")
OTHER = next((name for name in ort.get_available_providers() if name != CPU.provider), None)


def _new_threads(make: Callable[[], object]) -> tuple[object, list[int]]:
    """What ``make`` makes, and the threads that it started."""
    before = set(os.listdir("/proc/self/task"))
    made = make()
    return made, [int(thread) for thread in set(os.listdir("/proc/self/task")) - before]


def _come_to(threads: list[int], cores: set[int]) -> bool:
    """Whether all ``threads`` may use ``cores`` and no others; each sees to that itself, soon after it started."""
    until = monotonic() + 10
    while not (there := all(os.sched_getaffinity(thread) == cores for thread in threads)) and monotonic() < until:
        sleep(0.01)
    return there


@pinning
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_of_a_session_stay_on_its_cores_and_are_as_many_as_asked(tmp_path: Path, threads: int) -> None:
    graph, core = write_tiny_graph(tmp_path / "model.onnx"), max(os.sched_getaffinity(0))
    session, started = _new_threads(lambda: open_session(graph, threads, placement=Placement(cores=(core,))))
    assert len(started) == threads - 1  # the caller is the first
    assert _come_to(started, {core})
    free, started = _new_threads(lambda: open_session(graph, threads))
    assert len(started) == threads - 1
    assert _come_to(started, os.sched_getaffinity(0))
    del session, free


@pinning
def test_the_caller_is_on_the_cores_of_a_level_while_it_runs_and_no_longer(tmp_path: Path) -> None:
    everywhere = os.sched_getaffinity(0)
    session, seen = open_session(write_tiny_graph(tmp_path / "model.onnx"), 1), []

    class Seeing:
        def __getattr__(self, name: str) -> object:
            if name == "run_with_iobinding":
                seen.append(os.sched_getaffinity(0))
            return getattr(session, name)

    for core in everywhere:
        model = OrtModel(Seeing(), 64, 4, 8, cores=(core,))  # type: ignore[arg-type]
        model.prefill([1, 2, 3])
        model.forward([4])
        assert seen == [{core}, {core}]
        assert os.sched_getaffinity(0) == everywhere
        seen.clear()
    OrtModel(Seeing(), 64, 4, 8).forward([4])  # type: ignore[arg-type]
    assert seen == [everywhere]


@pinning
def test_the_caller_is_free_again_after_an_error() -> None:
    everywhere = os.sched_getaffinity(0)

    def fail() -> None:
        with on_cores((min(everywhere),)):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert os.sched_getaffinity(0) == everywhere


def test_all_levels_of_a_bundle_have_their_own_threads(random_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int | None, tuple[int, ...]]] = []
    make = PORTABLE.session_options

    def session_options(self: object, threads: int | None, cores: tuple[int, ...] = ()) -> ort.SessionOptions:
        asked.append((threads, tuple(cores)))
        return make(threads, cores)

    for kind in ("Portable", "Prepacked"):
        monkeypatch.setattr(f"runtime.kernels.backends.{kind}.session_options", session_options)
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    places = {"near": Placement(threads=3), "tiny": Placement(cores=() if core is None else (core,), threads=2)}
    with Engine.open(random_bundle, Request(context=64, threads=1, placements=places), device=AMPLE) as engine:
        text = "".join(chunk.text for chunk in engine.generate("Hello", max_new_tokens=20))
        assert set(engine.drafters) == {"near", "far"}
    assert asked == [(2, places["tiny"].cores), (3, ()), (1, ())]
    with Engine.open(random_bundle, Request(context=64, threads=1), device=AMPLE) as engine:
        assert "".join(chunk.text for chunk in engine.generate("Hello", max_new_tokens=20)) == text


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        (Placement("MagicExecutionProvider"), "near is placed on MagicExecutionProvider, and this ONNX Runtime has "),
        pytest.param(Placement(cores=(4000,)), "near is placed on core 4000, and this process may use ", marks=pinning),
    ],
)
def test_a_place_that_is_not_there_is_refused_before_anything_is_opened(
    random_bundle: Path, placement: Placement, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.models.loader.OrtModel.open", lambda *args, **more: pytest.fail("a level was opened"))
    with pytest.raises(PocketspecError, match=message):
        Engine.open(random_bundle, Request(context=64, placements={"near": placement}), device=AMPLE)


@pytest.mark.skipif(OTHER is None, reason="this ONNX Runtime has one provider")
def test_another_provider_is_really_taken_and_native_kernels_are_not(tiny_bundle_int4: Path) -> None:
    told: list[str] = []
    request = Request(context=64, placements={"target": Placement(str(OTHER))})
    with Engine.open(tiny_bundle_int4, request, device=AMPLE, notify=told.append) as engine:
        assert engine.target._session.get_providers()[0] == OTHER
        assert engine.target.kernels.name == "portable"
        assert next(iter(engine.generate("Hello", max_new_tokens=2))).step.tokens
    assert any(f"and {engine.manifest.target.name} is placed on {OTHER}" in line for line in told)
