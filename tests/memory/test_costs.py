"""Measured costs: smooth, exact where they were measured, and refused when damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.costs import CostsError, MeasuredCosts, RowCosts, dump_costs, make_row_costs, parse_costs

ROWS, CONTEXTS = (1, 2, 4, 8), (128, 512)
LEVEL = RowCosts(CONTEXTS, ROWS, ((0.020, 0.021, 0.023, 0.030), (0.022, 0.023, 0.026, 0.036)))
COSTS = MeasuredCosts(
    levels={"big": LEVEL, "small": RowCosts((128,), (1, 4), ((1e-3, 2e-3),))},
    step_seconds=1e-4,
    node_seconds={"chain": 4e-5, "tree": 1.5e-4},
    suffix_seconds=5e-5,
    bandwidth=2e10,
    threads=2,
    kernels="native",
    quick=True,
)

times = st.floats(1e-6, 10)


@st.composite
def medians(draw: st.DrawFn) -> dict[int, dict[int, float]]:
    """Any noise at all."""
    rows = draw(st.lists(st.integers(1, 64), min_size=1, max_size=6, unique=True))
    contexts = draw(st.lists(st.integers(0, 4096), min_size=1, max_size=4, unique=True))
    return {context: {count: draw(times) for count in rows} for context in contexts}


@given(medians(), st.integers(1, 200), st.integers(0, 40_000))
def test_more_rows_cost_no_less_and_neither_does_a_longer_context_whatever_was_measured(
    seconds: dict[int, dict[int, float]], rows: int, context: int
) -> None:
    costs = make_row_costs(seconds)
    here = costs.seconds(rows, context)
    slack = 1e-9 * max(here, 1)
    assert 0 < here <= costs.seconds(rows + 1, context) + slack
    assert here <= costs.seconds(rows, context + 1) + slack


@given(medians())
def test_what_never_fell_is_kept_as_measured(seconds: dict[int, dict[int, float]]) -> None:
    smooth = make_row_costs(seconds)
    again = make_row_costs(
        {c: dict(zip(smooth.rows, curve, strict=True)) for c, curve in zip(smooth.contexts, smooth.table, strict=True)}
    )
    for before, after in zip(smooth.table, again.table, strict=True):
        assert after == pytest.approx(before, rel=1e-9)


def test_noise_is_shared_by_neighbours() -> None:
    noisy = make_row_costs({128: {1: 2.0, 2: 4.0, 3: 3.0, 4: 5.0}})
    assert noisy.table == ((2.0, 3.5, 3.5, 5.0),)
    assert make_row_costs({128: {1: 4.0, 2: 4.0, 3: 1.0}}).table == ((3.0, 3.0, 3.0),)
    # A longer context that seems cheaper costs as much as the shorter one.
    assert make_row_costs({128: {1: 2.0, 2: 3.0}, 512: {1: 1.0, 2: 4.0}}).table == ((2.0, 3.0), (2.0, 4.0))


@given(medians())
def test_it_is_exact_where_it_was_measured_and_between_neighbours_elsewhere(
    seconds: dict[int, dict[int, float]],
) -> None:
    costs = make_row_costs(seconds)
    for context, curve in zip(costs.contexts, costs.table, strict=True):
        assert [costs.seconds(count, context) for count in costs.rows] == pytest.approx(curve, rel=1e-12)
        for (low, before), (high, after) in pairwise(zip(costs.rows, curve, strict=True)):
            assert before - 1e-9 <= costs.seconds((low + high) // 2, context) <= after + 1e-9


def test_lines_between_slopes_beyond_and_as_the_first_before() -> None:
    assert LEVEL.seconds(3, 128) == pytest.approx(0.022)
    assert LEVEL.seconds(1, 320) == pytest.approx(0.021)
    assert LEVEL.seconds(3, 320) == pytest.approx((0.022 + 0.0245) / 2)
    assert LEVEL.seconds(12, 128) == pytest.approx(0.037)
    assert LEVEL.seconds(1, 896) == pytest.approx(0.024)
    assert LEVEL.seconds(4, 7) == LEVEL.seconds(4, 128)
    assert RowCosts((128,), (1,), ((0.5,),)).seconds(9, 4000) == 0.5


@given(medians(), times, times, times, st.floats(1, 1e12), st.sampled_from([None, 1, 8]), st.booleans())
def test_json_round_trip(
    seconds: dict[int, dict[int, float]],
    step: float,
    node: float,
    suffix: float,
    bandwidth: float,
    threads: int | None,
    quick: bool,
) -> None:
    nodes: dict[Any, float] = {"chain": node, "tree": node + step}
    costs = MeasuredCosts({"a": make_row_costs(seconds)}, step, nodes, suffix, bandwidth, threads, "portable", quick)
    assert parse_costs(dump_costs(costs)) == costs


def broken(**changes: Any) -> str:
    return json.dumps(json.loads(dump_costs(COSTS)) | changes)


def broken_level(**changes: Any) -> str:
    return broken(levels={"big": json.loads(dump_costs(COSTS))["levels"]["big"] | changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "costs.json is (not JSON|nested)"),
        (dump_costs(COSTS)[:-20], "costs.json is (not JSON|nested)"),
        ("[" * 200_000, "costs.json is (not JSON|nested)"),
        ("[]", "costs.json has cost schema None, this version reads 1"),
        ("7", "has cost schema None"),
        (broken(schema=2), "has cost schema 2"),
        (broken(schema=True), "has cost schema True"),
        (broken(schema="1\n2"), "has cost schema '1.n2'"),
        (broken(levels=None), "field levels has the value None"),
        (broken(step_seconds="1\n2"), "field step_seconds has the value"),
        (broken(step_seconds=10**400), "step_seconds|too large"),
        (broken(step_seconds=float("nan")), "step_seconds, node_seconds and suffix_seconds must be times"),
        (broken(suffix_seconds=-1e-3), "must be times"),
        (broken(node_seconds={"chain": 1e-5}), "node_seconds are of chain, expected chain, tree"),
        (broken(node_seconds={"chain": 1e-5, "tree": float("inf")}), "must be times"),
        (broken(bandwidth=0), "a bandwidth of 0"),
        (broken(more=1), "unknown field"),
        (broken(**{"a\nb": 1}), r"unknown field a\\nb"),
        (broken_level(rows=[]), "rows of big do not increase from 1 on"),
        (broken_level(rows=[0, 2, 4, 8]), "rows of big do not increase from 1 on"),
        (broken_level(rows=[1, 4, 4, 8]), "rows of big do not increase"),
        (broken_level(contexts=[512, 128]), "contexts of big do not increase from 0 on"),
        (broken_level(table=[[1, 2, 3, 4]]), "big has no table of 2 x 4 seconds"),
        (broken_level(table=[[1, 2, 3, 4], [1, 2]]), "big has no table of 2 x 4 seconds"),
        (broken_level(table=[[1, 2, 3, 4], [0, 2, 3, 4]]), "big has seconds that are no times"),
        (broken_level(table=[[1, 2, 3, 4], [1, 3, 2, 4]]), "big has more rows that cost less"),
    ],
    ids=lambda value: value[:25],
)
def test_damaged_costs_are_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(CostsError, match=message) as error:
        parse_costs(text, "costs.json")
    assert len(str(error.value).splitlines()) == 1
    assert str(error.value).endswith("run python -m runtime calibrate again")


def test_costs_compare_by_value() -> None:
    assert replace(COSTS) == COSTS
    assert replace(COSTS, quick=False) != COSTS
