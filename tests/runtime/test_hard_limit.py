"""A planned conversation finishes under a hard limit on anonymous memory: the plan's own bytes and its margin."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from memory.choices import Request
from memory.device import read_device
from memory.plan import Plan, dump_plan
from memory.planner import make_plan
from runtime.bundle.foreign import read_bundle
from tests.limits import groups_can_be_made, run_in_group, run_with_data_limit, was_killed
from tests.places import ROOT

MIB = 1 << 20

in_groups = pytest.mark.skipif(not groups_can_be_made(), reason="no right to make memory groups (cgroups)")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux has them")

# Maps a file as ONNX Runtime does, privately and so that it could be written to, reads all of it, and then takes so
# many anonymous bytes.
_MAPPING = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
assert held[:: mmap.PAGESIZE].count(b"x")
ballast = bytearray(b"x") * int(sys.argv[2])
print("done")
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("mapped") / "weights"
    file.write_bytes(b"x" * 100 * MIB)
    return file


def mapping(weights: Path, anonymous: int) -> list[str]:
    return [sys.executable, "-c", _MAPPING, str(weights), str(anonymous)]


@in_groups
def test_a_group_does_not_count_files_that_were_read_before_and_kills_for_anonymous_bytes(weights: Path) -> None:
    assert run_in_group(mapping(weights, 10 * MIB), 60 * MIB, [weights]).stdout == "done\n"
    assert was_killed(run_in_group(mapping(weights, 80 * MIB), 60 * MIB, [weights]))


@on_linux
def test_a_data_limit_counts_private_mappings_so_their_size_comes_on_top(weights: Path) -> None:
    assert run_with_data_limit(mapping(weights, 10 * MIB), 60 * MIB, [weights]).stdout == "done\n"
    assert "MemoryError" in run_with_data_limit(mapping(weights, 80 * MIB), 60 * MIB, [weights]).stderr
    without = run_with_data_limit(mapping(weights, 10 * MIB), 60 * MIB)
    assert without.returncode != 0
    assert not without.stdout


def run_plan(bundle: Path, plan: Plan, limit: int) -> subprocess.CompletedProcess[str]:
    files = [file for file in bundle.rglob("*") if file.is_file()]
    command = [sys.executable, "-m", "runtime", "bench", "memory", str(bundle), "--plan", "-", "--json"]
    return run_in_group(command, limit, files, ROOT, dump_plan(plan))


def plans(bundle: Path, request: Request) -> list[Plan]:
    """Plans for what is least, for the most that is of use, and for what lies between."""
    manifest, device = read_bundle(bundle), read_device()
    ample = make_plan(manifest, device, request)
    least, most = ample.bounds.plain_bytes, ample.needed_bytes
    budgets = [least, (least + most) // 2, most]
    return [make_plan(manifest, device, replace(request, budget_bytes=budget)) for budget in budgets]


@in_groups
def test_planned_conversations_finish_within_their_plans(tiny_bundle_int4: Path) -> None:
    request = Request(context=256, turns=4, threads=1)
    for plan in plans(tiny_bundle_int4, request):
        done = run_plan(tiny_bundle_int4, plan, plan.anonymous_bytes + plan.margin_bytes)
        assert done.returncode == 0, (plan.given_up, done.stderr)
        measured = json.loads(done.stdout)
        assert measured["tokens"] > plan.context


@in_groups
def test_far_less_than_planned_is_not_enough(tiny_bundle_int4: Path) -> None:
    plan = plans(tiny_bundle_int4, Request(context=256, threads=1))[0]
    assert was_killed(run_plan(tiny_bundle_int4, plan, plan.anonymous_bytes // 2))
