"""Predictions are the cost model's own, step by step, and nobody's who is not in it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memory.costs import MeasuredCosts, RowCosts
from memory.expected import chain_tokens
from runtime.bench.contenders import parse_contender
from runtime.bench.measure import Bench, Task
from runtime.bench.prediction import Replay
from runtime.engine import Engine
from tests.runtime.bench.records import make_step

# A row more of the target costs a tenth of the first; the drafter's one row costs a tenth of that.
COSTS = MeasuredCosts(
    levels={
        "tiny": RowCosts((1,), (1, 11), ((1.0, 2.0),)),
        "near": RowCosts((1,), (1, 2), ((0.1, 0.1),)),
        "far": RowCosts((1,), (1, 2), ((0.1, 0.1),)),
    },
    step_seconds=0.0,
    node_seconds={"chain": 0.0, "tree": 0.0},
    suffix_seconds=0.0,
    bandwidth=1e9,
    threads=1,
    kernels="portable",
    quick=True,
)


def _replay(engine: Engine) -> Replay:
    return Replay(engine.decoding_methods(), COSTS, "tiny", lambda rows: rows)


def test_plain_decoding_costs_a_row(engine: Engine) -> None:
    steps = [replace(make_step(), target_seconds=1.0, seconds=1.0)] * 8
    assert _replay(engine).predict(steps, 10) == pytest.approx(1.0)


def test_chains_are_predicted_from_what_they_cost_and_bring(engine: Engine) -> None:
    """Half of all tokens stand, at every depth, and everything takes as long as it should."""
    accepted = [0, 1, 0, 2, 0, 1, 0, 3] * 12
    steps = [replace(make_step(a, 3), target_seconds=1.3, draft_seconds=0.3, seconds=1.6) for a in accepted]
    replay = _replay(engine)
    replay.predict(steps, 10)  # what was expected before is forgotten by then
    expected = chain_tokens([0.5, 0.5, 0.5]) / 1.6
    assert replay.predict(steps, 10) == pytest.approx(expected, rel=0.1)
    # A machine that has become slower is believed.
    slow = [replace(step, target_seconds=2.6, draft_seconds=0.6, seconds=3.2) for step in steps]
    replay.predict(slow, 10)
    assert replay.predict(slow, 10) == pytest.approx(expected / 2, rel=0.1)


def test_a_forecast_comes_before_its_step(engine: Engine) -> None:
    """So a single step, however lucky, cannot change its own."""
    lucky, unlucky = (_replay(engine).predict([make_step(accepted, 3)], 10) for accepted in (3, 0))
    assert lucky == unlucky is not None


def test_of_ways_that_it_does_not_know_the_model_says_nothing(engine: Engine) -> None:
    assert _replay(engine).predict([], 10) is None
    assert _replay(engine).predict([make_step(1, 1, drafter="perfect")], 10) is None


def test_every_contender_s_answers_have_a_prediction(engine: Engine) -> None:
    names = ["plain", "near-chain2", "near-tree4x2", "suffix-chain3", "auto", "perfect-chain2"]
    task = Task([engine.encode("one")], 8)
    answers = list(Bench({None: engine}, task).run([parse_contender(name) for name in names], 1))
    for answer in answers:
        assert (answer.predicted is not None and answer.predicted > 0) == (answer.contender != "perfect-chain2")
    (plain,) = Bench({None: engine}, task).run([parse_contender("plain")], 1)
    assert plain.predicted is None  # nothing needed to be measured for it
