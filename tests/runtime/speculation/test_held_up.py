"""What a scheduler does with real forwards when the process is held up: by a clock of the test."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from memory import Request
from runtime.decoding.draft import Step
from runtime.decoding.stop import StopRule
from runtime.engine import Engine
from runtime.models.ort_model import OrtModel
from runtime.scheduler.cost_based import CostScheduler
from runtime.speculation.request import Speculation

TOKENS, BACK = 300, 50
# A target's forward takes so long whatever its rows, so a draft that is often right pays.
TARGET_SECONDS, DRAFTER_SECONDS = 0.006, 0.0005
READERS = ("decoding.loop", "models.ort_model", "calibration.loop", "calibration.rows")


class Clock:
    """A clock that forwards move, and that is read instead of the processor's: no other program can disturb it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        for module in READERS:
            patch.setattr(f"runtime.{module}.perf_counter", self)
        patch.setattr(CostScheduler.__init__, "__defaults__", (self,))

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now


class Timed:
    """A model whose forwards take ``seconds`` of ``clock``, and some, by number from ``hold_up`` on, a pause."""

    def __init__(self, model: OrtModel, clock: Clock, seconds: float) -> None:
        self._forward, self._clock, self._seconds = model.forward, clock, seconds
        self._count, self._pauses, self._pause = 0, (), 0.0
        model.forward = self  # type: ignore[method-assign, assignment]

    def hold_up(self, pauses: Sequence[int], seconds: float) -> None:
        self._count, self._pauses, self._pause = 0, pauses, seconds

    def __call__(self, *given: Any) -> Any:
        self._clock.now += self._pause if self._count in self._pauses else self._seconds
        self._count += 1
        return self._forward(*given)


def _steps(engine: Engine) -> list[Step]:
    rule = StopRule(max_new_tokens=TOKENS)
    return list(engine.steps([1, 2, 3, 4], stop=rule, speculation=Speculation()))


def _drafting_share(steps: Sequence[Step], start: int, end: int) -> float:
    """Of the tokens from one to another, the share that steps with a drafter's draft brought."""
    before = [0, *itertools.accumulate(len(step.tokens) for step in steps)]
    here = [step for step, tokens in zip(steps, before, strict=False) if start <= tokens < end]
    return sum(len(step.tokens) for step in here if step.pick.name.startswith("near")) / sum(
        len(step.tokens) for step in here
    )


@pytest.mark.parametrize("pauses", [(20,), tuple(range(15, 40, 5))], ids=["once", "again and again"])
def test_a_real_forward_that_is_held_up_keeps_no_drafter_away(
    random_bundle: Path, pauses: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second once, or a fifth of a second again and again, while there are drafts; then 50 tokens to come back."""
    clock = Clock(monkeypatch)
    request = Request(threads=1, shape="chain", nodes=7, drafters=("near",))
    with Engine.open(random_bundle, request) as engine:
        target = Timed(engine.target, clock, TARGET_SECONDS)
        Timed(engine.drafters["near"], clock, DRAFTER_SECONDS)
        before = _drafting_share(_steps(engine), 50, TOKENS)  # costs are measured with it, too
        target.hold_up(pauses, 1.0 if len(pauses) == 1 else 0.2)
        steps = _steps(engine)
    end = sum(len(step.tokens) for step in steps[: max(pauses) + 2])
    assert before > 0.8
    assert _drafting_share(steps, end + BACK, TOKENS) > 0.8 * before
