"""What plans count: constrained answers, planned from the beginning or later, and rows of parallel drafts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from export.manifest import ParallelDrafts
from memory.build import plan_with_constraints
from memory.choices import Request
from memory.footprint import CONSTRAINTS, constraint_bytes, constraints_part
from memory.plan import Shape
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


@pytest.mark.parametrize(("shape", "nodes", "chain"), [("chain", 5, 5), ("chain", 12, 8), ("tree", 15, 8)])
def test_a_level_that_drafts_in_parallel_has_rows_for_a_whole_step_and_all_masks(
    shape: Shape, nodes: int, chain: int
) -> None:
    target, drafter = PAIR.levels
    pair = replace(PAIR, levels=(target, replace(drafter, parallel=ParallelDrafts(1, 8))))
    request = replace(REQUEST, shape=shape, nodes=nodes)
    usual, plan = (make_plan(manifest, AMPLE, request).levels[1] for manifest in (PAIR, pair))
    assert (plan.max_rows, plan.logits_rows, plan.tree) == (usual.max_rows + chain - 1, chain, False)
    assert plan.capacity == usual.capacity + chain - 1
    logits = chain * drafter.shape.vocab_size * 4
    assert plan.footprint.part("logits").anonymous == logits
