"""Experts in plans: what rows are expected to read, bytes, costs, and refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from export.manifest import ExpertShape
from memory import OverBudgetError, Request, make_plan
from memory.experts import expert_bytes, read_share
from memory.footprint import EXPERTS, LevelSizes, hot_weight_bytes, level_footprint
from memory.forward_costs import REFERENCE
from tests.devices import AMPLE
from tests.memory.manifests import PAIR, QWEN, TARGET

SHAPE = ExpertShape(layers=28, count=8, used=2, mlp_size=2048)
SPARSE = replace(TARGET, shape=replace(QWEN, experts=SHAPE), weight_bytes=2_000_000_000)
SPARSE = replace(SPARSE, native=replace(TARGET.native, data_bytes=1_960_000_000))  # type: ignore[type-var]
BUNDLE = replace(PAIR, levels=(SPARSE, *PAIR.levels[1:]))


@pytest.mark.parametrize("rows", [1, 2, 4, 8, 30])
def test_the_expected_share_is_that_of_rows_that_choose_at_random(rows: int) -> None:
    generator = np.random.default_rng(rows)
    chosen = generator.random((20_000, rows, SHAPE.count)).argsort(-1)[..., : SHAPE.used]
    read = np.zeros((20_000, SHAPE.count), np.bool_)
    np.put_along_axis(read, chosen.reshape(20_000, -1), values=True, axis=1)
    assert read_share(SHAPE, rows) == pytest.approx(float(read.mean()), rel=0.01)


def test_experts_are_a_part_of_their_own_and_part_of_the_weights() -> None:
    part = level_footprint(SPARSE, LevelSizes("fp32", 1024, 8, 8, 64, tree=False), "native", 2)
    dense = level_footprint(replace(SPARSE, shape=QWEN), LevelSizes("fp32", 1024, 8, 8, 64, tree=False), "native", 2)
    # 4 bits, and a float16 scale for each block of 128.
    assert part.part(EXPERTS).hot == int(3 * 28 * 8 * 2048 * 1536 * (0.5 + 2 / 128))
    assert part.part(EXPERTS).hot + part.part("weights").hot == dense.part("weights").hot
    assert part.part("scratch").anonymous > dense.part("scratch").anonymous


def test_a_row_costs_what_it_reads() -> None:
    """The dense part as ever, and of the experts those that are used; by many rows, all of them."""
    machine, experts = REFERENCE["native"], expert_bytes(SPARSE, "native")
    dense = hot_weight_bytes(SPARSE, "native") - experts
    always = machine.seconds(TARGET, dense, 1)
    assert machine.seconds(SPARSE, dense, 1, experts) == pytest.approx(always + experts / 4 / machine.bandwidth)
    two = machine.seconds(SPARSE, dense, 2, experts) - machine.seconds(TARGET, dense, 2)
    assert two == pytest.approx(experts * 7 / 16 / machine.bandwidth, rel=0.05)
    all_rows = machine.seconds(SPARSE, dense, 64, experts) - machine.seconds(TARGET, dense, 64)
    assert all_rows == pytest.approx(experts / machine.bandwidth * machine._relative(16), rel=0.01)


def test_experts_that_do_not_fit_are_refused_or_read_from_disk_as_they_are_chosen() -> None:
    request = Request(context=2048, nodes=0, budget_bytes=1_400_000_000)
    with pytest.raises(OverBudgetError, match="the largest part is experts of big"):
        make_plan(BUNDLE, AMPLE, request)
    plan = make_plan(BUNDLE, AMPLE, replace(request, may_give_up=frozenset({"disk"})))
    assert 0 < plan.disk_bytes < plan.target.footprint.part(EXPERTS).hot
    # A row uses a quarter of the experts.
    assert f"steps read them from disk, about {plan.disk_bytes // 4:,} bytes each" in plan.warnings[0]
    whole = make_plan(BUNDLE, AMPLE, replace(request, budget_bytes=4_000_000_000))
    seconds = 1 / plan.tokens_per_second - 1 / whole.tokens_per_second
    assert seconds == pytest.approx(plan.disk_bytes / 4 / 500e6, rel=0.2)
