"""The table of what a constraint adds to a step."""

from __future__ import annotations

from itertools import product
from pathlib import Path

from runtime.bench.constraint_overhead import report


def test_the_table_has_a_row_for_every_kind_of_step(random_bundle: Path) -> None:
    lines = report(random_bundle, 100, 2, "<|end|>")
    kinds = [[cell.strip() for cell in line.split("|")[1:4]] for line in lines if line.startswith("|")][2:]
    samplings = ["greedy", "temperature 0.8", "temperature 0.8, top_p 0.95", "temperature 0.7, top_k 20, top_p 0.8"]
    assert kinds == [list(each) for each in product(("usual", "any"), ("1", "8"), samplings)]
