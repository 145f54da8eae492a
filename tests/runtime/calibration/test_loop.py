"""What the loop takes beside forwards, on a clock that only moves where it is told to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memory import Request
from memory.forward_costs import NODE_SECONDS
from runtime.calibration import loop
from runtime.calibration.loop import Patience, measure_loop
from runtime.decoding import loop as decode
from runtime.decoding.acceptance.greedy import GreedyVerifier
from runtime.drafters.draft_model import DraftModelDrafter
from runtime.drafters.suffix import SuffixDrafter
from runtime.engine import Engine

PATIENCE = Patience(8, 1e9)
FORWARD, ACCEPT, NODE, FIRST = 100.0, 7.0, 3.0, 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Accepting takes 7 seconds and a drafter's own work 3 a node; the first draft takes long."""
    clock = SimpleNamespace(now=0.0, drafts=0)
    for module in (loop, decode):
        monkeypatch.setattr(module, "perf_counter", lambda: clock.now)

    def slow(kind: type, name: str, seconds: Callable[..., float]) -> None:
        method = getattr(kind, name)

        def slower(self: Any, *arguments: Any) -> Any:
            clock.now += seconds(*arguments)
            return method(self, *arguments)

        monkeypatch.setattr(kind, name, slower)

    def drafting(context: Any, limit: Any) -> float:
        clock.drafts += 1
        return NODE * limit.nodes + (FIRST if clock.drafts == 1 else 0)

    slow(GreedyVerifier, "accept", lambda *arguments: ACCEPT)
    slow(DraftModelDrafter, "propose", drafting)
    slow(SuffixDrafter, "propose", lambda *arguments: 0.25)
    slow(loop.OrtModel, "forward", lambda *arguments: FORWARD)
    slow(loop.OrtModel, "prefill", lambda *arguments: FORWARD)
    return clock


def test_forwards_do_not_count_and_our_own_work_does(random_bundle: Path, clock: SimpleNamespace) -> None:
    with Engine.open(random_bundle, Request(threads=1, shape="tree", nodes=15)) as engine:
        times = measure_loop(engine, {"tiny": 0.5, "near": 0.125, "far": 64.0}, PATIENCE)
    assert times.step_seconds == ACCEPT
    assert times.node_seconds["chain"] == NODE
    # A tree may have fewer nodes than were allowed; the one drafter that drafts, and the target, take more for it.
    assert times.node_seconds["tree"] >= NODE + 0.625
    assert times.node_seconds["tree"] < 64
    assert times.suffix_seconds == 0.25


def test_without_a_drafter_acceptance_is_timed_and_without_drafts_the_reference_stands_in(
    plain_bundle: Path, clock: SimpleNamespace
) -> None:
    with Engine.open(plain_bundle, Request(threads=1, nodes=5)) as engine:
        times = measure_loop(engine, {"tiny": 0.0}, PATIENCE)
        assert (times.step_seconds, times.node_seconds["chain"]) == (ACCEPT, 0.0)
        assert times.node_seconds["tree"] == NODE_SECONDS["tree"]
    with Engine.open(plain_bundle, Request(threads=1, nodes=0)) as engine:
        assert measure_loop(engine, {"tiny": 0.0}, PATIENCE).node_seconds == NODE_SECONDS


def test_steps_end_with_patience_and_with_the_context(random_bundle: Path, clock: SimpleNamespace) -> None:
    asked: list[int] = []

    def count(engine: Engine, patience: Patience) -> int:
        before = clock.now
        measure_loop(engine, {"tiny": 0.0, "near": 0.0}, patience)
        asked.append(round((clock.now - before) // FORWARD))
        return asked[-1]

    with Engine.open(random_bundle, Request(threads=1, drafters=("near",), shape="chain", nodes=3)) as engine:
        assert count(engine, Patience(50, 200.0)) < count(engine, Patience(50, 1e9))
    with Engine.open(random_bundle, Request(threads=1, context=6, shape="chain", nodes=3)) as engine:
        assert count(engine, Patience(1000, 1e9)) < 40
