"""Predicted against measured: on the real runtime, in processes of their own."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from export.bundle import export_bundle
from export.manifest import read_manifest
from export.request import ExportRequest
from memory import Plan, Request, make_plan, read_device
from memory.__main__ import main
from memory.footprint import LIBRARIES
from memory.plan import PlanError, parse_plan
from memory.process import REFERENCE, find_process
from memory.sweep import sweep_plans
from memory.verification import VerificationError, compare, verify_plan
from tests.devices import AMPLE
from tests.memory.manifests import PAIR


def measured_as_planned(plan: Plan) -> dict[str, Any]:
    """What a run would say if every byte were as predicted."""
    parts: dict[str, dict[str, int]] = {
        level.name: {name: level.footprint.part(name).anonymous for name in ("KV cache", "logits", "inputs", "session")}
        for level in plan.levels
    }
    process = {part.name: part.anonymous for part in plan.process.parts}
    told = ("Python and libraries", "tokenizer")
    rest = sum(count for name, count in process.items() if name not in told)
    rest += sum(level.footprint.part("scratch").anonymous for level in plan.levels)
    parts["process"] = {name: process[name] for name in told} | {"activations": rest}
    return {
        "parts": parts,
        "weights": {level.name: level.footprint.hot for level in plan.levels},
        "loading": {"anonymous_bytes": plan.loading_bytes, "file_bytes": 0},
        "running": {"anonymous_bytes": plan.running_bytes, "file_bytes": plan.hot_bytes},
    }


@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_what_is_as_predicted_differs_nowhere(shape: Any) -> None:
    plan = make_plan(PAIR, AMPLE, Request(context=4096, shape=shape, nodes=7))
    found = compare(plan, measured_as_planned(plan))
    assert [row.predicted for row in found.parts] == [row.measured for row in found.parts]
    assert found.anonymous.difference == found.total.difference == 0


@pytest.mark.parametrize("owner", ["process", "big", "small"])
def test_a_byte_more_anywhere_is_seen_in_its_row(owner: str) -> None:
    plan = make_plan(PAIR, AMPLE, Request(context=4096, nodes=7))
    measured = measured_as_planned(plan)
    for name in measured["parts"][owner]:
        changed = json.loads(json.dumps(measured))
        changed["parts"][owner][name] += 1
        assert sum(row.measured - row.predicted for row in compare(plan, changed).parts) == 1


@pytest.mark.parametrize("kernels", ["native", "portable"])
def test_a_real_bundle_takes_what_was_predicted(tiny_bundle_int4: Path, tmp_path: Path, kernels: str) -> None:
    """Of so small a model Python and libraries are nearly all; the slow test has a real one."""
    bundle = shutil.copytree(tiny_bundle_int4, tmp_path / "bundle")
    manifest = read_manifest(bundle)
    device = replace(read_device(), processes={kind: find_process(kind) for kind in REFERENCE})
    plans = list(sweep_plans(manifest, device, Request()))
    plan = next(plan for plan in plans if (plan.target.residence == "native") == (kernels == "native"))
    found = verify_plan(bundle, plan)
    assert abs(found.anonymous.difference) < 0.04
    assert abs(found.total.difference) < 0.04
    files = next(row for row in found.parts if row.name == f"{LIBRARIES}, files")
    assert abs(files.difference) < 0.04
    weights = [row for row in found.parts if row.name.endswith("weights, files")]
    assert all(0 < row.measured < row.predicted + (128 << 10) for row in weights)


@pytest.mark.slow
def test_every_plan_of_the_sweep_is_within_four_percent(tmp_path: Path) -> None:
    bundle = export_bundle(ExportRequest("demo", tmp_path / "demo"))
    assert main(["verify", str(bundle), "--sweep"]) == 0


def test_a_plan_that_cannot_be_run_says_why(tmp_path: Path) -> None:
    plan = make_plan(PAIR, AMPLE, Request(context=100))
    with pytest.raises(VerificationError, match="the plan for pair could not be run: no bundle at"):
        verify_plan(tmp_path / "nowhere", plan)


def test_a_plan_on_standard_input_is_checked() -> None:
    with pytest.raises(PlanError, match="is not JSON"):
        parse_plan("", "the plan on standard input")
