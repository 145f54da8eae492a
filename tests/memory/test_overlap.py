"""The expected speed of drafting while the target verifies, against steps that are tossed one by one."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from memory.overlap import StepSeconds, overlap_step

STEPS = 40_000
CHANCES = [
    [0.8, 0.8, 0.8, 0.8, 0.8],
    [0.9, 0.5, 0.95, 0.7],
    [0.3, 0.9, 0.9],
    [0.6, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9],
]
SECONDS = [StepSeconds(1.0, 1.5, 0.7), StepSeconds(1.0, 1.2, 2.0), StepSeconds(1.0, 1.0, 1.1)]


def _rate(chances: list[float], seconds: StepSeconds) -> float:
    tokens, spent = overlap_step(chances, seconds)
    return tokens / spent


def _tossed(chances: Sequence[float], seconds: StepSeconds) -> float:
    """Tokens a second: step after step, one draft after the other."""
    rng = Random(1)
    tokens, spent, ready = 0, 0.0, False
    for _ in range(STEPS):
        behind = chances[1:-1] if ready else []
        right = 0
        while right < len(behind) and rng.random() < behind[right]:
            right += 1
        tokens += right + 1
        spent += max(seconds.verifying if behind else seconds.plain, seconds.drafting)
        ready = right == len(behind) and rng.random() < (chances[-1] if ready else chances[0])
    return tokens / spent


@pytest.mark.parametrize("seconds", SECONDS, ids=str)
@pytest.mark.parametrize("chances", CHANCES, ids=str)
def test_the_rate_is_that_of_many_steps(chances: list[float], seconds: StepSeconds) -> None:
    assert _rate(chances, seconds) == pytest.approx(_tossed(chances, seconds), rel=0.02)


def test_a_perfect_drafter_hides_its_time_and_a_hopeless_one_costs_no_more_than_its_overhang() -> None:
    seconds = StepSeconds(plain=1.0, verifying=1.3, drafting=1.3)
    assert _rate([1.0] * 5, seconds) == pytest.approx(4 / 1.3)
    assert _rate([0.0] * 5, seconds) == pytest.approx(1 / 1.3)
    assert _rate([0.0] * 5, StepSeconds(1.0, 1.3, 0.9)) == pytest.approx(1.0)
