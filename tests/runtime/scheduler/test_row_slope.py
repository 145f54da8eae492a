"""What rows cost is found out from pairs of steps, however wrong the calibration was, and no hiccup is believed."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from runtime.scheduler.row_slope import RowSlope

# Seconds of a forward over those of one row, as calibrated.
EXTRA = {1: 0.0, 2: 0.2, 4: 1.2, 8: 3.0}


def _after(true: float, steps: int, seed: int = 0, slow: float = 1.0, hiccups: tuple[int, ...] = ()) -> RowSlope:
    """The estimate after steps of random row counts, with noise of 5%, on a machine that is ``slow`` times slower."""
    slope, rng = RowSlope(), random.Random(seed)
    for step in range(steps):
        rows = rng.choice([1, 2, 2, 4])
        seconds = slow * (1 + true * EXTRA[rows]) * rng.lognormvariate(0, 0.05)
        slope.observe(EXTRA[rows], seconds + (8.0 if step in hiccups else 0.0))
    return slope


@pytest.mark.parametrize("slow", [1.0, 3.0])
@pytest.mark.parametrize(("true", "steps"), [(0.05, 60), (0.5, 60), (1.0, 60), (3.0, 60), (15.0, 300)])
def test_the_slope_is_found_within_some_steps_and_says_what_was_never_tried(
    true: float, steps: int, slow: float
) -> None:
    for seed in range(5):
        found = _after(true, steps, seed, slow).factor(EXTRA[8])
        assert found == pytest.approx(1 + true * EXTRA[8], rel=0.2)


def test_where_other_programs_run_a_right_calibration_stays_believed() -> None:
    """Seconds that vary by a third say little of rows; with a noise of 0.15 taken for granted this is 0.27."""
    errors = []
    for seed in range(20):
        slope, rng, eight = RowSlope(), random.Random(seed), EXTRA[8] / 4
        for _ in range(150):
            extra = EXTRA[rng.choice([1, 2, 2, 4])] / 4
            slope.observe(extra, (1 + extra) * rng.lognormvariate(0, 0.33))
            errors.append(abs(math.log(slope.factor(eight) / (1 + eight))))
    assert statistics.mean(errors) < 0.15


@pytest.mark.parametrize("hiccups", [(20,), (20, 21), (5, 15, 25, 35)])
def test_steps_that_were_held_up_leave_no_trace(hiccups: tuple[int, ...]) -> None:
    for seed in range(5):
        assert _after(1.0, 50, seed, hiccups=hiccups).factor(EXTRA[8]) == pytest.approx(1 + EXTRA[8], rel=0.2)


def test_a_machine_that_slows_down_while_rows_stay_the_same_says_nothing_of_rows() -> None:
    slope = _after(1.0, 30)
    slope.observe(EXTRA[2], 1.2)
    before = slope.value
    for step in range(50):
        slope.observe(EXTRA[2], 1.2 * (1 + step / 10))
    assert slope.value == before


def test_rows_that_cost_nothing_more_have_no_slope_below_zero() -> None:
    assert 0 <= _after(0.0, 100).value < 0.1
