"""Running estimates: they find the truth, keep to it, and let go of it when it changes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.decoding.draft import Step
from runtime.scheduler.acceptance_stats import AcceptanceStats, RunningMean, RunningRatio, TextEase, TreeGain


def _steps(chances: list[float], count: int, seed: int) -> list[int]:
    """How many tokens of a chain were accepted, step by step."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        accepted = 0
        while accepted < len(chances) and rng.random() < chances[accepted]:
            accepted += 1
        found.append(accepted)
    return found


def test_before_the_first_step_it_is_what_was_known() -> None:
    assert AcceptanceStats(0.8).chances(3) == pytest.approx([0.8] * 3)


def test_every_depth_finds_its_chance() -> None:
    truth = [0.6, 0.9, 0.8]
    estimates = []
    for seed in range(20):
        acceptance = AcceptanceStats(0.5)
        for accepted in _steps(truth, 300, seed):
            acceptance.observe(accepted, 3)
        estimates.append(acceptance.chances(3))
    means = [sum(column) / len(column) for column in zip(*estimates, strict=True)]
    assert means == pytest.approx(truth, abs=0.05)


def test_a_depth_that_was_never_reached_is_taken_to_be_as_good_as_the_others() -> None:
    acceptance = AcceptanceStats(0.2)
    for _ in range(60):
        acceptance.observe(2, 2)
    assert acceptance.chances(5)[4] > 0.8


def test_a_drafter_that_is_suddenly_wrong_is_found_out_within_ten_steps() -> None:
    acceptance = AcceptanceStats(0.9)
    for _ in range(200):
        acceptance.observe(3, 3)
    for _ in range(10):
        acceptance.observe(0, 3)
    assert acceptance.chances(1)[0] < 0.5


def test_the_luck_of_a_few_steps_does_not_move_it_far() -> None:
    acceptance = AcceptanceStats(0.8)
    for accepted in _steps([0.8], 200, seed=1):
        acceptance.observe(accepted, 1)
    before = acceptance.chances(1)[0]
    for _ in range(2):
        acceptance.observe(0, 1)
    assert acceptance.chances(1)[0] > before - 0.08


def test_an_empty_draft_tells_nothing() -> None:
    acceptance = AcceptanceStats(0.7)
    for _ in range(50):
        acceptance.observe(0, 0)
    assert acceptance.chances(2) == pytest.approx([0.7, 0.7])


def test_what_is_forgotten_counts_less_and_the_prior_more() -> None:
    acceptance = AcceptanceStats(0.5)
    for _ in range(100):
        acceptance.observe(1, 1)
    before = acceptance.chances(1)[0]
    acceptance.forget(0.1)
    assert 0.5 < acceptance.chances(1)[0] < before


def test_one_hiccup_moves_no_ratio_and_a_lasting_change_does() -> None:
    ratio = RunningRatio(4.0)
    for value in (1.0, 1.0, 40.0, 1.0, 1.0):
        ratio.observe(value)
    assert ratio.value == pytest.approx(1.0)
    for _ in range(12):
        ratio.observe(3.0)
    assert ratio.value > 2.5


def test_a_gain_is_the_mean_and_not_what_happens_most_often() -> None:
    """Two nodes in nine steps of ten and none in the tenth: as many as expected, of which half are on the main path."""
    gain = TreeGain()
    for step in range(400):
        right = step % 10 != 0
        gain.observe(_tree_step(2 * right, int(right)), 1.8, [0.9])
    assert gain.value == pytest.approx(1.0, abs=0.06)


def test_an_easy_text_is_no_gain_of_trees() -> None:
    """Chances and main paths of a tree tell how easy a text is; only more than their siblings bring is a gain."""
    gain = TreeGain()
    for _ in range(50):
        gain.observe(_tree_step(3, 3), 1.2, [0.5, 0.5, 0.5])
    assert gain.value < 1.0


def _tree_step(accepted: int, main: int) -> Step:
    return Step((0,) * (accepted + 1), (), 6, accepted, 0.0, 0.1, 0.1, main_drafted=3, main_accepted=main)


def test_a_drafter_that_was_always_wrong_is_not_believed_again_in_the_next_answer() -> None:
    acceptance = AcceptanceStats(0.9)
    for _ in range(15):
        acceptance.observe(0, 3)
    for _ in range(10):
        acceptance.forget(0.75)
    assert acceptance.chances(1)[0] <= 0.25


def test_a_bad_paragraph_is_forgotten_with_its_text() -> None:
    """Otherwise a drafter that is used no more would never be believed again."""
    acceptance = AcceptanceStats(0.9)
    for _ in range(100):
        acceptance.observe(3, 3)
    for _ in range(12):
        acceptance.observe(0, 3)
    assert acceptance.chances(1)[0] < 0.3
    for _ in range(10):
        acceptance.forget(0.75)
    assert acceptance.chances(1)[0] > 0.7


def test_a_hard_paragraph_is_hard_for_all_who_guess() -> None:
    """Two equal drafters, one of them used: what it fails at is expected of the other one too."""
    text = TextEase()
    used, other = AcceptanceStats(0.9, text), AcceptanceStats(0.9, text)
    for acceptance in (used, other):
        for accepted in _steps([0.9] * 3, 200, seed=3):
            acceptance.observe(accepted, 3)
    before = other.chances(1)[0]
    for accepted in _steps([0.5] * 3, 40, seed=4):
        used.observe(accepted, 3)
    other.forget(0.0)
    assert used.chances(1)[0] < 0.65
    assert other.chances(1)[0] < before - 0.12


def test_luck_in_a_usual_text_moves_others_little() -> None:
    text = TextEase()
    used, other = AcceptanceStats(0.8, text), AcceptanceStats(0.8, text)
    for accepted in _steps([0.8] * 3, 200, seed=5):
        used.observe(accepted, 3)
    assert other.chances(1)[0] == pytest.approx(0.8, abs=0.08)


def test_a_mean_finds_what_is_true_and_begins_with_what_is_expected() -> None:
    mean = RunningMean(3.0)
    assert mean.value == 3.0
    for _ in range(200):
        mean.observe(1.0)
    assert mean.value == pytest.approx(1.0, abs=0.1)


def test_a_sudden_change_is_believed_of_deeper_tokens_at_once() -> None:
    acceptance = AcceptanceStats(0.9)
    for _ in range(200):
        acceptance.observe(3, 3)
    for _ in range(3):
        acceptance.observe(0, 3)
    assert acceptance.chances(3)[2] < 0.9


@given(st.lists(st.booleans(), max_size=40))
def test_a_review_teaches_what_chains_over_the_same_text_would_have(right: list[bool]) -> None:
    reviewed, drafted = AcceptanceStats(0.6), AcceptanceStats(0.6)
    reviewed.review(right)
    place = 0
    while place < len(right):
        stood = next((count for count, each in enumerate(right[place:]) if not each), len(right) - place)
        drafted.observe(stood, min(stood + 1, len(right) - place))
        place += stood + 1  # the model's own token is behind what stood
    assert reviewed.chances(8) == drafted.chances(8)
