"""Native memory of the Kotlin engine is what its plans say, to 5% in both directions; a process keeps its budget.

The demo bundle is measured, and of other bundles those that have golden steps and a table of plans.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from android_demo.check.fixtures import FOLDER
from android_demo.check.junit import CompiledTests, prepare_tests
from android_demo.check.lock import one_build
from android_demo.check.memory import NativeMemory, native_memory
from android_demo.check.places import tool_folders
from android_demo.check.tools import MissingToolError, Toolbox
from memory.plan_table import FILE_NAME, SCHEMA

_CONTEXT = 512
# Budgets, as shares of the way from the least to the most.
_SHARES = (1.0, 0.3)
# By how much plans may be off; and runs, of which the middle one counts: how the C library's heap is filled depends on
# when the JVM frees its own spare memory, which makes up to a megabyte.
_TOLERANCE, _RUNS = 0.05, 3


@pytest.fixture(scope="module")
def compiled() -> Iterator[CompiledTests]:
    try:
        with one_build():
            yield prepare_tests(Toolbox(tool_folders(), may_compile=False))
    except MissingToolError as missing:
        pytest.skip(f"ANDROID TESTS SKIPPED: {missing}")


def _bundles() -> list[Path]:
    """The demo, and bundles of golden steps."""
    golden = sorted((FOLDER / "golden").glob("*.json"))
    named = [Path(json.loads(file.read_text(encoding="utf-8"))["bundle"]) for file in golden if file.stem != "tiny"]
    tables = [bundle / FILE_NAME for bundle in (FOLDER / "models" / "demo", *named)]
    return [table.parent for table in tables if table.is_file() and f'"schema": {SCHEMA}' in table.read_text("utf-8")]


@pytest.mark.slow
@pytest.mark.parametrize("share", _SHARES)
def test_native_memory_is_what_the_plan_says(compiled: CompiledTests, share: float) -> None:
    bundles = _bundles()
    if not bundles:
        pytest.skip("no bundle: make android writes the demo's copy")
    for bundle in bundles:
        runs = [native_memory(compiled, bundle, _CONTEXT, share) for _ in range(_RUNS)]
        assert all(run.planned_arena == run.arena for run in runs)
        assert all(run.process <= run.budget for run in runs)
        assert abs(median(run.difference for run in runs)) <= _TOLERANCE, "\n".join(map(str, runs))


def test_a_difference_has_its_sign() -> None:
    memory = NativeMemory("demo fp32 512", planned=100, taken=95, planned_arena=1, arena=1, budget=9, process=8)
    assert memory.difference == pytest.approx(-0.05)
    assert "(-5.0%)" in str(memory)
