"""Raw confidence, corrected by what became of earlier tokens."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.drafters.confidence import ConfidenceCalibration, is_worth_extending, uncalibrated

RAWS = [0.0, 0.001, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 0.999, 1.0]
observations = st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=60)


def _learnt(truth: Callable[[float], float], count: int, seed: int = 0) -> ConfidenceCalibration:
    """A calibration that saw ``count`` tokens of every confidence, accepted with the chance ``truth`` says."""
    calibration, chance = ConfidenceCalibration(), random.Random(seed)
    for _ in range(count):
        raw = chance.random()
        calibration.observe(raw, chance.random() < truth(raw))
    return calibration


def test_nothing_is_corrected_without_observations() -> None:
    calibration = ConfidenceCalibration()
    for raw in RAWS:
        assert calibration(raw) == pytest.approx(raw, abs=1e-5)
        assert uncalibrated(raw) == raw


@given(observations)
def test_a_surer_token_is_never_worth_less(seen: list[tuple[float, bool]]) -> None:
    calibration = ConfidenceCalibration()
    for raw, accepted in seen:
        calibration.observe(raw, accepted)
    places = sorted([*RAWS, *(place / 97 for place in range(98))])
    chances = [calibration(raw) for raw in places]
    assert all(low <= high + 1e-12 for low, high in itertools.pairwise(chances))
    assert all(0 < chance < 1 for chance in chances)


@given(st.floats(0, 1), st.booleans())
def test_one_observation_says_little(raw: float, accepted: bool) -> None:
    calibration = ConfidenceCalibration()
    calibration.observe(raw, accepted)
    assert all(abs(calibration(other) - other) < 0.15 for other in RAWS)


@pytest.mark.parametrize(
    "truth",
    [lambda raw: raw, lambda raw: raw * raw, lambda raw: 0.6 * raw, lambda raw: 0.4 + 0.6 * raw, lambda raw: 0.1],
    ids=["right", "too sure", "much too sure", "too modest", "of no use"],
)
def test_many_observations_are_believed(truth: Callable[[float], float]) -> None:
    calibration = _learnt(truth, 6000)
    for raw in (0.05, 0.2, 0.4, 0.6, 0.8, 0.95):
        assert calibration(raw) == pytest.approx(truth(raw), abs=0.12)


def test_a_drafter_that_becomes_worse_is_found_out() -> None:
    calibration = _learnt(lambda raw: 0.95, 3000)
    before, chance = calibration(0.7), random.Random(1)
    for _ in range(2500):
        calibration.observe(chance.random(), chance.random() < 0.05)
    assert before > 0.85
    assert calibration(0.7) < 0.2


def test_drafting_goes_on_while_the_next_token_is_likely_enough() -> None:
    assert is_worth_extending(0.81, 2, 0.72)  # two tokens of 0.9 each, so a third of 0.9: 0.729
    assert not is_worth_extending(0.81, 2, 0.73)
    assert is_worth_extending(0.0, 1, 0.0)
    assert not is_worth_extending(0.5, 1, 0.26)
