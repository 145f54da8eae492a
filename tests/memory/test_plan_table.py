"""The table of plans: whoever chooses from it has what the planner would have made."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from export.manifest import FileEntry, read_manifest, write_manifest
from memory.__main__ import main
from memory.arena import level_blocks
from memory.choices import Request
from memory.plan import OverBudgetError
from memory.plan_table import (
    FILE_NAME,
    Column,
    bundle_key,
    dump_table,
    make_columns,
    needed_bytes,
    table_contexts,
    table_device,
)
from memory.planner import make_plan
from memory.process import ProcessBytes
from tests.memory.manifests import PAIR, STACK

REQUEST = Request(threads=2)


@pytest.fixture(scope="module")
def columns() -> list[Column]:
    return list(make_columns(STACK, REQUEST))


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_the_first_that_fits_is_the_planners_plan(columns: list[Column], count: int) -> None:
    random = Random(count)
    outcomes = set()
    for _ in range(count):
        column = random.choice(columns)
        process = ProcessBytes(random.randrange(200_000_000), 1_200_000, random.randrange(100_000_000))
        own = replace(process, session=0)
        needed = [needed_bytes(plan.anonymous_bytes, plan.hot_bytes, own) for plan in column.plans]
        budget = random.choice(needed) + random.randrange(-3, 3) * random.choice((1, 500_000))
        device = table_device(STACK, column.kernels, process_of(column, process), 2)
        request = replace(REQUEST, context=column.context, kv_type=column.kv_type, budget_bytes=budget)
        chosen = next((place for place, size in enumerate(needed) if size <= budget), None)
        outcomes.add(chosen is None)
        if chosen is None:
            with pytest.raises(OverBudgetError) as refused:
                make_plan(STACK, device, request)
            assert refused.value.smallest_bytes == needed[-1]
            continue
        made, found = make_plan(STACK, device, request), column.plans[chosen]
        assert (made.draft, made.levels, made.prefill_chunk) == (found.draft, found.levels, found.prefill_chunk)
        assert made.needed_bytes == needed[chosen]
    assert outcomes == {True, False}


def process_of(column: Column, process: ProcessBytes) -> ProcessBytes:
    """``process`` with the first session that the table counts."""
    return replace(process, session=column.plans[0].process.part("first session").anonymous)


def test_plans_get_smaller_and_only_planned_types_change(columns: list[Column]) -> None:
    for column in columns:
        sizes = [plan.needed_bytes for plan in column.plans]
        assert sizes == sorted(sizes, reverse=True)
        assert all(plan.context == column.context for plan in column.plans)
        if column.kv_type is not None:
            assert {plan.target.kv_type for plan in column.plans} == {column.kv_type}


def test_blocks_hold_what_the_plan_counts(columns: list[Column]) -> None:
    for plan in {plan for column in columns for plan in column.plans}:
        for level in plan.levels:
            cache, work = level_blocks(STACK.level(level.name), level, plan.prefill_chunk)
            sizes = {b.name: b.bytes * b.count for block in (cache, work) for b in block.buffers}
            part = level.footprint.part
            assert (sizes["kv"], sizes["logits"]) == (part("KV cache").anonymous, part("logits").anonymous)
            inputs = sum(sizes.get(name, 0) for name in ("input_ids", "position_ids", "attention_mask", "tree_bias"))
            rows = max(level.max_rows, plan.prefill_chunk)
            assert inputs + 8 * rows + 4 * level.capacity == part("inputs").anonymous
            for block in (cache, work):
                ends = [b.offset + (b.count - 1) * b.stride + b.bytes for b in block.buffers]
                starts = [b.offset for b in block.buffers]
                assert all(start % 64 == 0 and start >= end for start, end in zip(starts[1:], ends, strict=False))
                assert ends[-1] <= block.bytes < ends[-1] + 64


def test_what_the_file_says_of_a_plan_adds_up() -> None:
    table = json.loads(dump_table(PAIR, REQUEST))
    for column in table["columns"]:
        for plan in column["plans"]:
            listed = [table["processes"][plan["process"]], *(table["levels"][i]["parts"] for i in plan["levels"])]
            running = sum(count[0] for parts in listed for count in parts.values())
            assert max(running, plan["loading"]) == plan["anonymous"]
            assert sum(count[1] for parts in listed for count in parts.values()) == plan["hot"]
    assert table["key"] == bundle_key(PAIR.files)


@pytest.mark.parametrize(
    ("positions", "contexts"),
    [(300, (300,)), (512, (512,)), (2048, (512, 1024, 2048)), (32_768, (512, 1024, 2048, 4096))],
)
def test_contexts_end_with_what_the_target_can_have(positions: int, contexts: tuple[int, ...]) -> None:
    target = replace(PAIR.target, shape=replace(PAIR.target.shape, positions=positions))
    assert table_contexts(replace(PAIR, levels=(target,))) == contexts


def test_the_table_is_listed_and_does_not_change_its_own_key(tmp_path: Path) -> None:
    write_manifest(tmp_path, replace(PAIR, files={"other": FileEntry(1, "0" * 64)}))
    key = bundle_key(read_manifest(tmp_path).files)
    assert main(["plans", str(tmp_path), "--threads", "2"]) == 0
    manifest = read_manifest(tmp_path)
    assert manifest.files[FILE_NAME].bytes == (tmp_path / FILE_NAME).stat().st_size
    assert bundle_key(manifest.files) == key == json.loads((tmp_path / FILE_NAME).read_text())["key"]


def test_a_table_elsewhere_leaves_the_bundle_alone(tmp_path: Path) -> None:
    write_manifest(tmp_path, PAIR)
    before = (tmp_path / "pocketspec.json").read_bytes()
    assert main(["plans", str(tmp_path), "--output", str(tmp_path / "x.json")]) == 0
    assert (tmp_path / "pocketspec.json").read_bytes() == before


@pytest.mark.parametrize("words", [("--threads", "0"), ("--output", "/nowhere/x.json"), ("--draft-size", "64")])
def test_what_cannot_be_written_is_one_line(tmp_path: Path, capsys: Any, words: tuple[str, ...]) -> None:
    write_manifest(tmp_path, PAIR)
    assert main(["plans", str(tmp_path), *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / FILE_NAME).exists()
