"""The table of what a constraint adds to a step."""

from __future__ import annotations

from pathlib import Path

from runtime.bench.constraint_overhead import report


def test_the_table_has_a_row_for_every_kind_of_step(random_bundle: Path) -> None:
    lines = report(random_bundle, 100, 2, "<|end|>")
    kinds = [line.split("|")[1].strip() for line in lines if line.startswith("|")]
    assert kinds == ["rows", "---", "1, greedy", "8, greedy", "1, sampled", "8, sampled"]
