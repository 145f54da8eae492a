"""What runs before a commit and on other machines is the gate of the Makefile, and names no machine."""

from __future__ import annotations

import re
import runpy
from typing import Any

import pytest

from tests.places import ROOT
from tests.test_makefile import AGAIN, GATE

yaml = pytest.importorskip("yaml", reason="comes with the packages of the export")

PRE_COMMIT, WORKFLOW = ".pre-commit-config.yaml", ".github/workflows/check.yml"


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_before_a_commit_the_quick_part_runs() -> None:
    (repository,) = read(PRE_COMMIT)["repos"]
    assert repository["repo"] == "local"
    entries = [hook["entry"].split() for hook in repository["hooks"]]
    assert [entry[0] for entry in entries] == [".venv/bin/python"] * len(entries)
    assert [[*entry[1:], "."] if "ruff" in entry else entry[1:] for entry in entries] == GATE[:-1]


def test_other_machines_run_the_same_gate() -> None:
    steps = read(WORKFLOW)["jobs"]["check"]["steps"]
    assert [step["run"].split()[1:] for step in steps[-len(GATE) - 1 :]] == [*GATE, AGAIN]
    assert steps[-1]["if"] == "failure()"


def test_the_workflow_covers_systems_and_packages() -> None:
    matrix = read(WORKFLOW)["jobs"]["check"]["strategy"]["matrix"]
    assert [re.sub(r"-[\d.]+", "", system) for system in matrix["system"]] == [
        "ubuntu",
        "ubuntu-arm",
        "macos",
        "windows",
    ]
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name, oldest in re.findall(r'"(onnxruntime|numpy)>=([\d.]+),', pyproject):
        assert any(f"{name}=={oldest}.*" in entry["pinned"] for entry in matrix["include"])


def test_the_workflow_says_that_it_has_not_run() -> None:
    first, *_ = (ROOT / WORKFLOW).read_text(encoding="utf-8").splitlines()
    assert "has not run yet" in first


@pytest.mark.parametrize("name", [PRE_COMMIT, WORKFLOW, "Makefile", ".ci/run"])
def test_no_place_of_one_machine_is_named(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"https?://|--index-url|/home/|/root/|/tmp/", text)


def test_the_picture_of_results_is_that_of_its_table() -> None:
    drawn = runpy.run_path(str(ROOT / "runtime" / "bench" / "results_picture.py"))
    page = drawn["RESULTS"].read_text(encoding="utf-8")
    assert len(drawn["read_bars"](page)) == 8
    assert drawn["PICTURE"].read_text(encoding="utf-8") == drawn["draw"](page)
