"""The bytes of constrained answers: planned from the beginning, or added to a plan that has room for them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memory.build import plan_with_constraints
from memory.choices import Request
from memory.footprint import CONSTRAINTS, constraint_bytes, constraints_part
from memory.planner import make_plan, request_of
from tests.devices import AMPLE
from tests.memory.manifests import PAIR

REQUEST = Request(context=2048)


def test_constrained_answers_have_a_part_of_their_own() -> None:
    free, plan = make_plan(PAIR, AMPLE, REQUEST), make_plan(PAIR, AMPLE, replace(REQUEST, constrained=True))
    assert free.process.part(CONSTRAINTS).anonymous == 0
    assert plan.process.part(CONSTRAINTS).anonymous == constraint_bytes(PAIR) > 0
    assert plan.running_bytes - free.running_bytes == constraint_bytes(PAIR)
    assert plan.hot_bytes - free.hot_bytes == constraints_part(PAIR).hot > 0
    # Room for the dearest constraint, which no usual one takes, is no part of the prediction.
    assert plan.margin_bytes - free.margin_bytes >= 10_000_000
    assert [request_of(each).constrained for each in (free, plan)] == [False, True]


def test_a_larger_vocabulary_takes_more_and_none_takes_nothing() -> None:
    def sized(entries: int) -> int:
        vocabulary = replace(PAIR.target.vocabulary, entries=entries)
        levels = (replace(PAIR.target, vocabulary=vocabulary), *PAIR.levels[1:])
        return constraint_bytes(replace(PAIR, levels=levels))

    # Peaks in fresh processes.
    for entries, measured in ((4_096, 5.0e6), (49_152, 21.2e6), (151_936, 58.3e6)):
        assert sized(entries) == pytest.approx(measured, rel=0.05)
    assert constraint_bytes(replace(PAIR, files={})) == 0


def test_constraints_fit_a_plan_later_exactly_where_they_would_have_from_the_beginning() -> None:
    wanted = make_plan(PAIR, AMPLE, replace(REQUEST, constrained=True))
    free = make_plan(PAIR, AMPLE, REQUEST)
    grown = plan_with_constraints(replace(free, budget_bytes=wanted.needed_bytes), PAIR)
    assert (grown.needed_bytes, grown.process.anonymous) == (wanted.needed_bytes, wanted.process.anonymous)
    assert (grown.draft, grown.levels) == (free.draft, free.levels)
    assert plan_with_constraints(grown, PAIR) is grown
