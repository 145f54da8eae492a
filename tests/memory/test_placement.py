"""Where levels run: what a user asks for, what the plan says of it, and what it costs."""

from __future__ import annotations

import argparse

import pytest

from export.manifest import PocketspecError
from memory import Request, dump_plan, make_plan, parse_plan
from memory.choices import PlanInputs
from memory.footprint import Part
from memory.options import add_request, make_request, parse_placements
from memory.plan import LevelPlan, Placement, Plan
from memory.planner import request_of
from memory.report import plan_lines
from tests.devices import AMPLE
from tests.memory.manifests import PAIR, STACK

CPU = "CPUExecutionProvider"
WIDE = {"context": 4096, "shape": "tree", "nodes": 15}


def _level(plan: Plan, name: str) -> LevelPlan:
    level = plan.level(name)
    assert level is not None
    return level


def _part(plan: Plan, name: str, part: str) -> Part:
    return _level(plan, name).footprint.part(part)


@pytest.mark.parametrize(
    ("text", "placement"),
    [
        ("big=threads:3", Placement(threads=3)),
        ("big=cores:1", Placement(cores=(1,))),
        ("big=cores:0,2-4,9", Placement(cores=(0, 2, 3, 4, 9))),
        ("big=cores:0,2,threads:1", Placement(threads=1, cores=(0, 2))),
        (
            "big=threads:1,cores:0-1,provider:XnnpackExecutionProvider",
            Placement("XnnpackExecutionProvider", 1, (0, 1)),
        ),
        (f"big=provider:{CPU}", Placement()),
    ],
)
def test_a_place_is_read_in_any_order(text: str, placement: Placement) -> None:
    assert parse_placements([text]) == {"big": placement}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("big", "''"),
        ("big=", "''"),
        ("big=threads:many", "'threads:many'"),
        ("big=cores:", "'cores:'"),
        ("big=cores:3-1", "'cores:3-1'"),
        ("big=cores:0-", "'cores:0-'"),
        ("big=provider:", "'provider:'"),
        ("big=speed:9", "'speed:9'"),
    ],
)
def test_what_says_no_place_is_refused_with_a_model_of_one(text: str, part: str) -> None:
    with pytest.raises(PocketspecError, match=f"--place {text}: {part} says no place; write LEVEL=threads:1,cores:0-1"):
        parse_placements([text])


def test_two_places_for_one_level_are_refused() -> None:
    with pytest.raises(PocketspecError, match="--place big=cores:0: big has a place already"):
        parse_placements(["big=threads:1", "big=cores:0"])


@pytest.mark.parametrize(
    ("placements", "message"),
    [
        ({"huge": Placement()}, "'huge' is no level of this bundle; it has: big, small, target, drafter"),
        ({"big": Placement(threads=0)}, "0 threads for big: it must be at least 1"),
        ({"small": Placement(cores=(1, 1))}, "cores 1, 1 for small: name each core once"),
    ],
)
def test_what_cannot_be_is_refused_when_planning(placements: dict[str, Placement], message: str) -> None:
    with pytest.raises(PocketspecError, match=message):
        make_plan(PAIR, AMPLE, Request(placements=placements))


def test_options_reach_every_level_of_the_plan_and_come_back_from_json() -> None:
    parser = argparse.ArgumentParser()
    add_request(parser)
    words = "bundle --threads 4 --fixed-width --place big=threads:1,cores:0 --place drafter=cores:1-2"
    plan = make_plan(STACK, AMPLE, make_request(parser.parse_args(words.split()), AMPLE))
    placed = {level.name: (level.placement, plan.threads_of(level)) for level in plan.levels}
    assert placed["big"] == (Placement(threads=1, cores=(0,)), 1)
    # Both drafters by their role; as many threads as cores where no number is given.
    assert placed["small"] == placed["smaller"] == (Placement(cores=(1, 2)), 2)
    assert plan.fixed_width
    assert parse_plan(dump_plan(plan)) == plan
    again = make_plan(STACK, AMPLE, request_of(plan))
    assert (again.levels, again.fixed_width) == (plan.levels, True)
    assert "rows of logits; 1 thread on core 0" in "\n".join(plan_lines(plan))


def test_a_name_goes_before_its_role_and_other_levels_have_the_threads_of_all() -> None:
    places = {"drafter": Placement(threads=2), "smaller": Placement(threads=5)}
    request = Request(context=4096, threads=3, drafters=("middle", "small", "smaller"), placements=places)
    plan = make_plan(STACK, AMPLE, request)
    assert [plan.threads_of(level) for level in plan.levels] == [3, 3, 2, 5]
    assert [PlanInputs(STACK, AMPLE, Request(placements=places)).threads(name) for name in ("big", "small")] == [2, 2]
    assert make_plan(PAIR, AMPLE, Request()).threads_of(make_plan(PAIR, AMPLE, Request()).target) is None


def test_bytes_that_threads_take_are_those_of_the_levels_own_threads() -> None:
    def scratch(threads: int | None, **placed: int) -> list[int]:
        places = {name: Placement(threads=count) for name, count in placed.items()}
        plan = make_plan(PAIR, AMPLE, Request(threads=threads, placements=places, **WIDE))
        return [_part(plan, name, "scratch").anonymous for name in ("big", "small")]

    few, many = scratch(1), scratch(8)
    assert many[0] > few[0]
    assert many[1] > few[1]
    assert scratch(1, big=8) == [many[0], few[1]]
    assert scratch(8, big=1, small=8) == [few[0], many[1]]


def test_levels_with_places_of_their_own_may_run_at_once() -> None:
    """Otherwise one level's activations are gone before the next one's come."""
    together, alone = (
        make_plan(PAIR, AMPLE, Request(placements=places, **WIDE)).process.part("activations").anonymous
        for places in ({"small": Placement(threads=2)}, {})
    )
    only_big = make_plan(PAIR, AMPLE, Request(drafters=(), placements={"small": Placement(threads=2)}, **WIDE))
    assert together > alone == only_big.process.part("activations").anonymous


def test_with_a_fixed_width_every_step_is_as_dear_as_that_of_the_largest_draft() -> None:
    def rate(nodes: int, *, fixed: bool) -> float:
        request = Request(context=1024, drafters=(), shape="chain", nodes=nodes, fixed_width=fixed)
        return make_plan(PAIR, AMPLE, request).tokens_per_second

    assert rate(7, fixed=True) < 0.6 * rate(7, fixed=False)
    assert rate(0, fixed=True) == rate(0, fixed=False)
