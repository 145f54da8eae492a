"""Intervals cover what they should, and summaries are what their records say."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from memory.meter import Memory
from runtime.bench.acceptance import LevelAcceptance, measure_acceptance
from runtime.bench.contenders import parse_contender
from runtime.bench.intervals import RatioInterval, mean_ratio, show_spread, spread
from runtime.bench.measure import AnswerRecord
from runtime.bench.prompts import BenchPrompt
from runtime.bench.report import Report, Setup
from runtime.bench.summary import ComparedWith, Summary, summarize
from runtime.bundle.foreign import read_bundle
from runtime.decoding.sampling import SamplingParams
from runtime.engine import Engine
from tests.runtime.bench.records import make_answer, make_step


def test_a_spread_is_median_and_range() -> None:
    value = spread([3.0, 1.0, 8.0])
    assert (value.median, value.low, value.high) == (3.0, 1.0, 8.0)
    assert show_spread(value, ".1f") == "3.0 (1.0-8.0)"


@pytest.mark.parametrize("count", [3, 6, 20])
def test_intervals_cover_a_known_ratio_as_often_as_they_say(count: int) -> None:
    """Ratios around 1.3 that scatter by 20%: of 400 intervals 95% should hold it, give or take three errors (3.3%)."""
    numbers = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        ratio = mean_ratio([[1.3 * math.exp(number)] for number in numbers.normal(0, 0.2, count)])
        assert ratio is not None
        assert ratio.low is not None
        assert ratio.high is not None
        assert ratio.low <= ratio.value <= ratio.high
        covered += ratio.low <= 1.3 <= ratio.high
    assert 0.917 <= covered / 400 <= 0.983


def test_a_ratio_is_the_geometric_mean_of_prompts_whatever_their_repeats() -> None:
    ratio = mean_ratio([[2.0, 8.0], [1.0]])
    assert ratio is not None
    assert (ratio.value, ratio.count) == (pytest.approx(2.0), 2)
    assert mean_ratio([[2.0, 8.0], [1.0]]) == ratio  # the same measurements, the same interval
    same = mean_ratio([[1.5]] * 4)
    assert same is not None
    assert (same.low, same.high) == (pytest.approx(1.5), pytest.approx(1.5))


def test_one_prompt_has_no_interval_and_none_no_ratio() -> None:
    assert mean_ratio([]) is None
    assert mean_ratio([[]]) is None
    alone = mean_ratio([[1.0, 4.0]])
    assert alone == RatioInterval(pytest.approx(2.0), None, None, 1)
    assert str(alone) == "2.00 (n=1, no interval)"


def test_acceptance_by_depth_counts_drafts_that_came_so_far() -> None:
    steps = [make_step(0, 3), make_step(1, 3), make_step(3, 3), make_step(1, 1), make_step()]
    (found,) = measure_acceptance(steps, "tiny")
    assert found == LevelAcceptance("tiny", 4, 5 / 10, (3 / 4, 1 / 2, 1.0))
    # Of a tree the path counts, and its nodes for the rate.
    (tree,) = measure_acceptance([make_step(2, 2, drafted=6), make_step(0, 2, drafted=6)], "tiny")
    assert tree == LevelAcceptance("tiny", 2, 2 / 12, (1 / 2, 1.0))
    assert measure_acceptance([make_step()], "tiny") == []
    # Where nothing reached a depth, nothing is said of it.
    assert measure_acceptance([make_step(0, 3)], "tiny")[0].by_depth == (0.0,)


def test_every_level_of_a_hierarchy_has_its_own_acceptance() -> None:
    bottom = [make_step(1, 2, drafter="d"), make_step(2, 2, drafter="d")]
    middle = [make_step(0, 3, drafter="d>c", below=tuple(bottom)), make_step()]
    outer = [
        make_step(4, 5, drafter="d>c>b", below=tuple(middle)),
        make_step(1, 2, drafter="b"),
    ]
    found = measure_acceptance(outer, "a")
    assert [each.level for each in found] == ["a", "b", "c"]
    assert [each.by_depth for each in found] == [(1.0, 0.5, 1.0, 1.0, 0.0), (0.0,), (1.0, 0.5)]
    others = [make_step(1, 1, drafter=f"d>{name}", below=tuple(bottom)) for name in "xy"]
    assert [each.level for each in measure_acceptance(others, "a")] == ["a", "x", "y"]


def _summarize(
    answers: list[AnswerRecord], everyone: list[AnswerRecord], bundle: Path, keeps_text: bool = True
) -> Summary:
    target = replace(read_bundle(bundle).target, weight_bytes=1100, sparse_bytes=100)
    return summarize(answers, everyone, target, "random weights", None, ComparedWith("plain", "plain", keeps_text))


def test_a_summary_is_what_the_records_say(random_bundle: Path) -> None:
    plain = [make_answer("plain", speed, prompt) for prompt, speed in enumerate((10.0, 20.0, 40.0))]
    fast = [
        make_answer("auto", 2 * speed, prompt, predicted=3 * speed) for prompt, speed in enumerate((10.0, 20.0, 40.0))
    ]
    fast[0] = replace(fast[0], peak=Memory(7, 2), steps=(*fast[0].steps[:4], make_step(drafter="near")))
    fast[1] = replace(fast[1], peak=Memory(5, 9))
    found = _summarize(fast, plain + fast, random_bundle)
    assert (found.tokens_per_second, found.prompts, found.answers) == (pytest.approx(40.0), 3, 3)
    assert found.ratio == RatioInterval(pytest.approx(2.0), pytest.approx(2.0), pytest.approx(2.0), 3)
    assert found.end_to_end_tokens_per_second == pytest.approx(5 / (1 + 4 / 40))
    assert found.end_to_end_ratio is not None
    assert found.end_to_end_ratio.value == pytest.approx(((1.4 / 1.2) * (1.2 / 1.1) * (1.1 / 1.05)) ** (1 / 3))
    assert found.first_token_seconds == 1.0
    assert found.choices == {"plain": pytest.approx(14 / 15), "near-chain0": pytest.approx(1 / 15)}
    assert found.read_bytes_per_second == 1000 / 0.5
    assert found.peak == Memory(7, 9)
    assert (found.predicted, found.identical) == (60.0, 3)
    assert found.prediction is not None
    assert found.prediction.value == pytest.approx(1.5)


def test_the_first_step_is_no_decoding(random_bundle: Path) -> None:
    slow = replace(make_step(3, 3), draft_seconds=99.0, target_seconds=99.0)
    answer = make_answer("auto", 10.0, steps=[slow, make_step(1, 3), make_step(1, 3)])
    assert answer.tokens_per_second == pytest.approx(10.0)
    found = _summarize([answer], [answer], random_bundle)
    assert (found.draft_seconds_per_step, found.target_seconds_per_step) == (0.25, 0.5)
    assert found.tokens_per_step == 8 / 3
    # An answer that ends with its first step says nothing about decoding.
    alone = replace(answer, steps=(slow,))
    found = _summarize([alone], [alone], random_bundle)
    assert (found.tokens_per_second, found.ratio, found.read_bytes_per_second) == (None, None, None)


def test_only_answers_to_the_same_prompt_in_the_same_repeat_are_compared(random_bundle: Path) -> None:
    plain = [make_answer("plain", 10.0, 0, 0), make_answer("plain", 40.0, 0, 1), make_answer("plain", 5.0, 1, 0)]
    fast = [make_answer("auto", 20.0, 0, 0), make_answer("auto", 80.0, 0, 1), make_answer("auto", 99.0, 2, 0)]
    found = _summarize(fast, plain + fast, random_bundle)
    assert found.ratio == RatioInterval(pytest.approx(2.0), None, None, 1)
    assert found.tokens_per_second == pytest.approx((50.0 + 99.0) / 2)


def test_answers_that_differ_are_counted_where_they_should_not(random_bundle: Path) -> None:
    plain = [make_answer("plain", 10.0, 0), make_answer("plain", 10.0, 1)]
    other = [make_answer("auto", 10.0, 0), make_answer("auto", 10.0, 1, steps=[make_step()] * 4)]
    assert _summarize(other, plain + other, random_bundle).identical == 1
    assert _summarize(other, plain + other, random_bundle, keeps_text=False).identical is None


def test_auto_is_held_against_the_best_fixed_choice_of_each_category(engine: Engine) -> None:
    """Not against families, which choose as well."""
    names = ["plain", "near-chain3", "chain", "auto"]
    setup = Setup(
        command="bench",
        manifest=engine.manifest,
        plan=engine.plan,
        contenders=[parse_contender(name) for name in names],
        prompts=[BenchPrompt(category, category) for category in ("a", "b")],
        prompts_from="2 prompts",
        repeats=1,
        max_new_tokens=8,
        sampling=SamplingParams(),
        kernels=["portable"],
    )
    speeds = {"plain": (10.0, 10.0), "near-chain3": (5.0, 40.0), "chain": (99.0, 99.0), "auto": (9.0, 38.0)}
    answers = [make_answer(name, speeds[name][prompt], prompt) for name in names for prompt in range(2)]
    found = Report(setup, answers).hindsight
    assert {group: (each.best, pytest.approx(each.ratio.value)) for group, each in found.items()} == {
        "all prompts": ("near-chain3", (9 / 5 * 38 / 40) ** 0.5),
        "a": ("plain", 0.9),
        "b": ("near-chain3", 0.95),
    }
    assert Report(setup, [answer for answer in answers if answer.contender != "auto"]).hindsight == {}
