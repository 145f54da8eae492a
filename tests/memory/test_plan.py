"""The plan as a value: JSON out and in, its schema, and what is refused."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace

import jsonschema
import pytest

from memory import Request, dump_plan, make_plan, parse_plan
from memory.plan import Plan, PlanError, check_plan
from memory.report import plan_lines
from tests.devices import AMPLE
from tests.memory.json_schema import PLAN_SCHEMA, json_schema
from tests.memory.manifests import PAIR, STACK

BUDGET = make_plan(PAIR, AMPLE, Request(context=4096)).bounds.plain_bytes
LEAN = make_plan(PAIR, AMPLE, Request(context=4096, turns=20, budget_bytes=BUDGET))
DISK = make_plan(PAIR, AMPLE, Request(budget_bytes=10**9 // 2, may_give_up=frozenset({"context", "disk"})))


@pytest.mark.parametrize("plan", [LEAN, DISK, make_plan(PAIR, AMPLE, Request(up_to=True, context=4096))], ids=str)
def test_json_round_trip(plan: Plan) -> None:
    assert parse_plan(dump_plan(plan)) == plan
    jsonschema.validate(json.loads(dump_plan(plan)), json.loads(PLAN_SCHEMA.read_text()))


def test_the_schema_in_the_package_is_that_of_the_plan() -> None:
    assert json.loads(PLAN_SCHEMA.read_text()) == json_schema(Plan, "Memory plan")


def test_the_schema_refuses_what_the_parser_refuses() -> None:
    schema, data = json.loads(PLAN_SCHEMA.read_text()), json.loads(dump_plan(LEAN))
    for broken in ({**data, "context": "many"}, {**data, "more": 1}, {k: v for k, v in data.items() if k != "levels"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema)
        with pytest.raises(PlanError):
            parse_plan(json.dumps(broken))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "plan.json is not JSON"),
        ("[]", "plan.json has plan schema None, this version reads 1; make the plan again"),
        ('{"schema": 99}', "plan.json has plan schema 99"),
        ('{"schema": 1}', "plan.json: plan lacks bundle, context"),
    ],
)
def test_what_is_no_plan_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        parse_plan(text, "plan.json")


def test_a_plan_is_frozen_and_comparable() -> None:
    with pytest.raises(FrozenInstanceError):
        LEAN.context = 1  # type: ignore[misc]
    assert replace(LEAN) == LEAN
    assert replace(LEAN, context=1) != LEAN


def test_a_plan_for_another_bundle_is_refused() -> None:
    check_plan(LEAN, PAIR)
    with pytest.raises(PlanError, match="is for bundle 'pair', and the bundle is 'stack'; make the plan again"):
        check_plan(LEAN, STACK)
    plan = make_plan(PAIR, AMPLE, Request(context=100))
    with pytest.raises(PlanError, match="names level 'small'"):
        check_plan(plan, replace(PAIR, levels=PAIR.levels[:1]))


def test_in_words_it_names_every_part_bound_and_step() -> None:
    text = "\n".join(plan_lines(LEAN))
    for part in (
        "context 4,096 tokens for 20 turns of 204",
        "process: Python and libraries",
        "process: tokenizer",
        "big: weights",
        "big: KV cache",
        "big: logits",
        "process: activations",
        "big: scratch",
        "big: session",
        f"smallest budget for this context without: {LEAN.bounds.plain_bytes:,} bytes",
        f"smallest budget for this context with speculation: {LEAN.bounds.speculative_bytes:,} bytes",
        *(f"given up: {entry.step}, {entry.change}" for entry in LEAN.given_up),
    ):
        assert part in text
    assert len(LEAN.given_up) >= 3


def test_anonymous_hot_and_cold_bytes_are_those_of_the_parts() -> None:
    footprints = [LEAN.process, *(level.footprint for level in LEAN.levels)]
    parts = [part for footprint in footprints for part in footprint.parts]
    assert LEAN.hot_bytes == sum(part.hot for part in parts)
    assert LEAN.cold_bytes == sum(part.cold for part in parts)
    assert LEAN.anonymous_bytes == max(LEAN.loading_bytes, sum(part.anonymous for part in parts))
    assert LEAN.needed_bytes == LEAN.total_bytes + LEAN.margin_bytes <= LEAN.budget_bytes
