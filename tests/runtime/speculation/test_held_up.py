"""What a scheduler does with real forwards when the process is held up: judged by what it picked, not by the clock."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from memory import Request
from runtime.decoding.draft import Step
from runtime.decoding.stop import StopRule
from runtime.engine import Engine
from runtime.models.ort_model import OrtModel
from runtime.speculation.request import Speculation

TOKENS, BACK = 300, 50
# A target's forward takes so long whatever its rows, so a draft that is often right pays.
FORWARD_SECONDS = 0.006


class Slowed:
    """A model whose forwards take ``FORWARD_SECONDS`` longer, and some, by number from ``hold_up`` on, a pause."""

    def __init__(self, model: OrtModel) -> None:
        self._forward, self._count, self._pauses, self._seconds = model.forward, 0, (), 0.0
        model.forward = self  # type: ignore[method-assign, assignment]

    def hold_up(self, pauses: Sequence[int], seconds: float) -> None:
        self._count, self._pauses, self._seconds = 0, pauses, seconds

    def __call__(self, *given: Any) -> Any:
        time.sleep(self._seconds if self._count in self._pauses else FORWARD_SECONDS)
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
def test_a_real_forward_that_is_held_up_keeps_no_drafter_away(random_bundle: Path, pauses: tuple[int, ...]) -> None:
    """A second once, or a fifth of a second again and again, while there are drafts; then 50 tokens to come back."""
    with _open(random_bundle) as engine:
        target = Slowed(engine.target)
        before = _undisturbed_share(engine)
        target.hold_up(pauses, 1.0 if len(pauses) == 1 else 0.2)
        steps = _steps(engine)
    end = sum(len(step.tokens) for step in steps[: max(pauses) + 2])
    after = _drafting_share(steps, end + BACK, TOKENS)
    if after <= 0.8 * before:  # unless another program takes the processor, which an engine without a past tells
        with _open(random_bundle) as engine:
            Slowed(engine.target)
            _undisturbed_share(engine)
    assert after > 0.8 * before


def _open(bundle: Path) -> Engine:
    return Engine.open(bundle, Request(threads=1, shape="chain", nodes=7, drafters=("near",)))


def _undisturbed_share(engine: Engine) -> float:
    """How much is drafted in an answer that nothing holds up; skips where that is little."""
    share = _drafting_share(_steps(engine), 50, TOKENS)  # costs are measured with it, too
    if share < 0.8:
        pytest.skip("this machine is too busy: drafts do not pay")
    return share
