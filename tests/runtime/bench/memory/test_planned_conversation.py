"""A planned conversation touches what the plan reserves, and its parts add up to what the process took."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memory.choices import Request
from memory.device import read_device
from memory.meter import read_memory
from memory.plan import Plan, dump_plan
from memory.planner import make_plan
from runtime.bundle.foreign import read_bundle
from tests.places import ROOT

pytestmark = pytest.mark.skipif(
    read_memory() is None, reason="this system does not tell anonymous from file-backed memory"
)


def run_plan(bundle: Path, plan: Plan, *options: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, for the meter watches all of it."""
    command = [sys.executable, "-m", "runtime", "bench", "memory", str(bundle), "--plan", "-", *options]
    return subprocess.run(command, cwd=ROOT, input=dump_plan(plan), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def plan(random_bundle: Path) -> Plan:
    request = Request(context=300, turns=3, shape="tree", nodes=7, prefill_chunk=32, threads=1)
    return make_plan(read_bundle(random_bundle), read_device(), request)


@pytest.fixture(scope="module")
def measured(random_bundle: Path, plan: Plan) -> dict[str, Any]:
    done = run_plan(random_bundle, plan, "--json")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_every_row_that_was_planned_is_touched(measured: dict[str, Any], plan: Plan) -> None:
    for level in plan.levels:
        planned = level.footprint.part("KV cache").anonymous
        assert measured["parts"][level.name]["KV cache"] > planned * 0.95 - 4096


def test_parts_add_up_to_the_peak_of_the_conversation(measured: dict[str, Any]) -> None:
    total = sum(count for parts in measured["parts"].values() for count in parts.values())
    assert total == pytest.approx(measured["running"]["anonymous_bytes"], abs=1 << 20)


def test_phases_are_told_in_order(measured: dict[str, Any], plan: Plan) -> None:
    names = [phase["name"] for phase in measured["phases"]]
    assert names[:4] == ["libraries", "tokenizer", f"open {plan.target.name}", "open drafters"]
    turns = plan.turns + len(plan.levels) - 1 + len(["suffix", "widest"])
    assert names[4:] == [f"turn {turn + 1}: {part}" for turn in range(turns) for part in ("prompt", "steps")]
    assert measured["tokens"] > plan.context


def test_people_get_lines(random_bundle: Path, plan: Plan) -> None:
    done = run_plan(random_bundle, plan)
    assert "tiny: KV cache:" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("anonymous")


def test_a_plan_for_other_weights_or_another_bundle_is_refused(random_bundle: Path, plan: Plan) -> None:
    other = replace(plan, bundle="other")
    done = run_plan(random_bundle, other)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "is for bundle 'other'" in done.stderr
    residence = "prepacked" if plan.target.residence == "copied" else "copied"
    elsewhere = replace(plan, levels=(replace(plan.target, residence=residence), *plan.levels[1:]))
    done = run_plan(random_bundle, elsewhere)
    assert done.returncode == 2
    assert "make the plan again" in done.stderr.splitlines()[-1]
