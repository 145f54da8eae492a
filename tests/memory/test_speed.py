"""Plans follow what was measured on the device: their speed, the room for drafts, and whether an intermediate pays."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.manifest import DraftHeads, Manifest
from memory import Request, make_plan
from memory.costs import MeasuredCosts, RowCosts, make_row_costs
from memory.forward_costs import REFERENCE, ReferenceCosts
from memory.plan import Plan, Shape
from memory.planner import make_planner
from memory.speed import draft_sizes, expected_tokens
from tests.devices import AMPLE
from tests.memory.manifests import PAIR, STACK

NODE: Mapping[Shape, float] = {"chain": 1e-5, "tree": 2e-5}
STEP = 1e-4
FLAT, STEEP = 0.005, 0.9
EVERYTHING = ("middle", "small", "smaller")


def level(one_row: float, slope: float) -> RowCosts:
    """Every row beyond the first costs ``slope`` of the first."""
    return RowCosts((128,), (1, 64), ((one_row, one_row * (1 + 63 * slope)),))


def costs(slope: float = FLAT, kernels: str = "native", step: float = STEP, **one_row: float) -> MeasuredCosts:
    levels = {name: level(seconds, slope) for name, seconds in one_row.items()}
    return MeasuredCosts(levels, step, NODE, 1e-4, 2e10, None, kernels, False)


def rate(plan: Plan) -> float:
    return plan.tokens_per_second


def names(plan: Plan) -> list[str]:
    return [level.name for level in plan.levels]


def with_agreements(**agreements: float) -> Manifest:
    levels = tuple(replace(level, agreement=agreements.get(level.name, level.agreement)) for level in STACK.levels)
    return replace(STACK, levels=levels)


def test_speed_is_that_of_the_device_where_it_was_measured() -> None:
    plain = Request(context=2048, nodes=0)
    assert rate(make_plan(PAIR, AMPLE, plain, costs(big=0.05))) == pytest.approx(1 / (0.05 + STEP))
    measured, reference = costs(big=0.05, kernels="portable"), make_plan(PAIR, AMPLE, plain)
    assert rate(make_plan(PAIR, AMPLE, plain, measured)) == rate(reference)
    portable = replace(AMPLE, kernels="portable")
    assert rate(make_plan(PAIR, portable, plain, measured)) == pytest.approx(1 / (0.05 + STEP))


def test_a_chain_costs_its_forwards_its_nodes_and_the_step() -> None:
    request = Request(context=2048, nodes=3, shape="chain")
    plan = make_plan(PAIR, AMPLE, request, costs(big=0.05, small=0.001))
    rates = [
        expected_tokens(0.8, "chain", nodes) / (0.05 * (1 + nodes * FLAT) + nodes * (0.001 + NODE["chain"]) + STEP)
        for nodes in (1, 2, 3)
    ]
    assert rate(plan) == pytest.approx(max(rates))


def test_a_tree_feeds_the_drafter_all_nodes_above_each_level() -> None:
    request = Request(context=2048, nodes=7, shape="tree")
    measured = costs(slope=0.1, big=0.05, small=0.001)
    flat = MeasuredCosts({**measured.levels, "big": level(0.05, 0.0)}, STEP, NODE, 1e-4, 2e10, None, "native", False)
    manifest = replace(PAIR, levels=(PAIR.levels[0], replace(PAIR.levels[1], agreement=0.5)))
    drafting = 0.001 * (1 + (1 + 0.1) + (1 + 0.3)) + 7 * NODE["tree"]
    expected = expected_tokens(0.5, "tree", 7) / (0.05 + drafting + STEP)
    assert rate(make_plan(manifest, AMPLE, request, flat)) == pytest.approx(expected)


def test_a_level_that_was_not_measured_is_as_slow_as_the_target_beside_the_reference() -> None:
    request = Request(context=2048, nodes=1, shape="chain")
    target = PAIR.target
    reference = 1 / rate(make_plan(PAIR, AMPLE, Request(context=2, nodes=0)))
    both = make_plan(PAIR, AMPLE, request, costs(slope=0, big=reference * 3, step=0))
    assert target.name == "big"
    small = REFERENCE["native"].seconds(PAIR.levels[1], int(10_000_000 * 0.97) + 1024 * 2 * 2 * 2 * 16 * 4, 1)
    assert rate(both) == pytest.approx(1.8 / (3 * reference + 3 * small + NODE["chain"]), rel=1e-3)


def test_rows_of_a_stack_read_the_heads_that_are_theirs() -> None:
    everywhere: Any = SimpleNamespace(residence=lambda name: "portable")
    whole = replace(PAIR.level("small"), shape=replace(PAIR.level("small").shape, layers=0))

    def share(rows: int, together: bool) -> float:
        stack, reference = replace(whole, heads=DraftHeads(4, 65, together)), ReferenceCosts(everywhere)
        return reference.seconds(stack, rows, 0) / reference.seconds(whole, 1, 0)

    assert [share(rows, together=True) for rows in (1, 2, 4, 8)] == pytest.approx([0.25, 0.5, 1, 1])
    assert share(1, together=False) == pytest.approx(0.25)


def test_cheap_rows_get_room_for_long_drafts_and_dear_ones_do_not() -> None:
    def draft(slope: float, **more: float) -> tuple[Shape, int]:
        plan = make_plan(PAIR, AMPLE, Request(context=2048), costs(slope, big=0.05, **{"small": 1e-4, **more}))
        return plan.draft.shape, plan.draft.nodes

    assert draft(FLAT)[1] == 15
    assert draft(STEEP)[1] <= 3
    assert draft(FLAT, small=0.2) == ("chain", 1)
    shape = make_plan(PAIR, AMPLE, Request(context=2048, shape="chain"), costs(FLAT, big=0.05, small=1e-4)).draft
    assert (shape.shape, shape.nodes) == ("chain", 12)


def test_the_vehicle_that_was_best_with_a_chain_of_three_has_room_for_it() -> None:
    """Measured on a 3M model enlarged to 1.5B: 2.14 x plain with a chain of 2, 2.32 x with one of 3 (README)."""
    table = ((0.0261, 0.0288, 0.0386, 0.0727, 0.1315),)
    measured = replace(
        costs(big=1.0, small=0.0004), levels={"big": RowCosts((128,), (1, 2, 4, 8, 16), table), "small": level(4e-4, 0)}
    )
    plan = make_plan(PAIR, AMPLE, Request(context=512), measured)
    assert plan.draft.nodes >= 3


def test_trees_get_room_only_where_a_drafter_has_graphs_for_them() -> None:
    chains = replace(PAIR, levels=(PAIR.levels[0], replace(PAIR.levels[1], tree=False)))
    measured = costs(FLAT, big=0.05, small=0.01)
    assert make_plan(PAIR, AMPLE, Request(context=2048), measured).draft.shape == "tree"
    assert make_plan(chains, AMPLE, Request(context=2048), measured).draft.shape == "chain"


DEAR = costs(FLAT, big=0.2, middle=0.004, small=5e-4, smaller=4e-4)
AGREEING = with_agreements(middle=0.97, small=0.7, smaller=0.6)


def test_an_intermediate_is_opened_where_a_hierarchy_is_clearly_faster() -> None:
    plan = make_plan(AGREEING, AMPLE, Request(context=2048), DEAR)
    without = make_plan(AGREEING, AMPLE, Request(context=2048, drafters=("small", "smaller")), DEAR)
    assert names(plan) == ["big", "small", "smaller", "middle"]
    assert rate(plan) >= 1.03 * rate(without)
    planner = make_planner(AGREEING, AMPLE, Request(context=2048), DEAR)
    assert rate(plan) >= planner.predictor.best_hierarchy(planner.start(), "middle") > 0


@pytest.mark.parametrize(
    ("manifest", "request_", "measured"),
    [
        (with_agreements(middle=0.72, small=0.7, smaller=0.7), Request(context=2048), DEAR),
        (AGREEING, Request(context=2048), costs(FLAT, big=0.2, middle=0.19, small=5e-4, smaller=4e-4)),
        (AGREEING, Request(context=2048, nodes=0), DEAR),
        (AGREEING, Request(context=2048, drafters=("small",)), DEAR),
        (AGREEING, Request(context=2048, drafters=()), DEAR),
    ],
    ids=["agrees no more", "costs as much", "plain", "another was named", "none was wanted"],
)
def test_elsewhere_it_stays_closed(manifest: Manifest, request_: Request, measured: MeasuredCosts) -> None:
    assert "middle" not in names(make_plan(manifest, AMPLE, request_, measured))


@pytest.mark.parametrize("gain", [0.99, 1.01])
def test_clearly_means_three_percent(gain: float, monkeypatch: pytest.MonkeyPatch) -> None:
    planner = make_planner(AGREEING, AMPLE, Request(context=2048, drafters=("small", "smaller")), DEAR)
    without = planner.plan().tokens_per_second
    monkeypatch.setattr("memory.speed.Predictor.best_hierarchy", lambda *arguments: 1.03 * gain * without)
    opened = names(make_plan(AGREEING, AMPLE, Request(context=2048), DEAR))
    assert ("middle" in opened) == (gain > 1)


def test_an_intermediate_that_does_not_fit_leaves_two_levels() -> None:
    request = Request(context=2048)
    whole = make_plan(AGREEING, AMPLE, request, DEAR)
    middle = whole.level("middle")
    assert middle is not None
    budget = whole.needed_bytes - middle.footprint.total // 2
    plan = make_plan(AGREEING, AMPLE, replace(request, budget_bytes=budget), DEAR)
    assert names(plan) == ["big", "small", "smaller"]
    assert plan.needed_bytes <= budget
    assert plan.context == whole.context
    assert "intermediate" in [entry.step for entry in plan.given_up]


@pytest.mark.parametrize("kernels", ["native", "portable"])
def test_all_levels_reach_the_same_length_and_what_is_inside_a_hierarchy_has_room(kernels: str) -> None:
    device = replace(AMPLE, kernels="native" if kernels == "native" else "portable")
    small_positions = tuple(replace(level, shape=replace(level.shape, positions=32_768)) for level in AGREEING.levels)
    manifest = replace(AGREEING, levels=small_positions)
    plan = make_plan(manifest, device, Request(context=8192, shape="chain", nodes=3), replace(DEAR, kernels=kernels))
    assert len(plan.levels) == 4
    assert all(level.capacity - level.max_rows == plan.context for level in plan.levels)
    for name in ("middle", "small", "smaller"):
        opened = plan.level(name)
        assert opened is not None
        assert (opened.tree, opened.logits_rows == opened.max_rows) == (True, True)
        assert opened.max_rows >= 16
    padding = 0 if kernels == "native" else 1
    assert plan.target.max_rows == plan.draft.nodes + 1 + padding


def test_the_hierarchy_is_as_fast_as_when_it_is_played_through() -> None:
    """One length outside and what is best inside, token by token with dice."""
    dice, outer, inner = random.Random(1), 0.9, 0.7
    manifest = with_agreements(middle=outer, small=inner, smaller=0.0)
    times = {"big": 0.1, "middle": 0.01, "small": 0.001}
    slopes = {"big": 0.01, "middle": 0.3, "small": 0.0}
    levels = {name: level(seconds, slopes[name]) for name, seconds in times.items()}
    measured = replace(
        costs(big=1.0), levels={**levels, "smaller": level(1.0, 0.0)}, node_seconds=dict.fromkeys(NODE, 0.0)
    )
    # Trees inside would have to be played through as well.
    chains = tuple(replace(each, tree=each.role == "target") for each in manifest.levels)
    request = Request(context=2048, nodes=12, shape="chain", drafters=("middle", "small"))
    planner = make_planner(replace(manifest, levels=chains), AMPLE, request, measured)
    predicted = planner.predictor.best_hierarchy(planner.start(), "middle")

    def play(length: int, below: int) -> float:
        tokens = seconds = 0.0
        for _ in range(4000):
            drafted = 0
            while drafted < length:
                right = 0
                while right < below and dice.random() < inner:
                    right += 1
                drafted += right + 1
                seconds += below * 0.001 + 0.01 * (1 + 0.3 * below) + STEP
            accepted = 0
            while accepted < length and dice.random() < outer:
                accepted += 1
            tokens += accepted + 1
            seconds += 0.1 * (1 + 0.01 * length) + STEP + (0.003 if accepted == length else 0)
        return tokens / seconds

    played = max(play(length, below) for length in (5, 7, 9, 12) for below in (1, 2, 3))
    assert predicted == pytest.approx(played, rel=0.05)


def test_a_hierarchy_needs_a_drafter_below() -> None:
    planner = make_planner(AGREEING, AMPLE, Request(context=2048, drafters=("middle",)), DEAR)
    assert planner.predictor.best_hierarchy(planner.start(), "middle") == 0


def test_an_intermediate_whose_drafter_is_never_right_drafts_token_by_token_and_catches_up() -> None:
    manifest = with_agreements(middle=0.9, small=0.0)
    levels = {"big": level(0.2, 0.01), "middle": level(0.01, 0.5), "small": level(0.01, 0.0)}
    request = Request(context=2048, nodes=4, shape="chain", drafters=("middle", "small"))
    planner = make_planner(manifest, AMPLE, request, replace(costs(big=1.0), levels=levels))
    expected = [
        expected_tokens(0.9, "chain", length)
        / (0.2 * (1 + 0.01 * length) + length * (NODE["chain"] + 0.01 + STEP) + STEP + 0.9**length * 0.005)
        for length in (2, 3, 4)
    ]
    assert planner.predictor.best_hierarchy(planner.start(), "middle") == pytest.approx(max(expected))


def test_repetition_in_the_text_counts_with_drafters_too() -> None:
    """Otherwise a plan without a drafter that never pays would seem faster than one with it."""
    useless = costs(STEEP, big=0.05, small=5.0)
    with_one = make_plan(PAIR, AMPLE, Request(context=2048), useless)
    assert rate(with_one) == rate(make_plan(PAIR, AMPLE, Request(context=2048, drafters=()), useless))
    assert rate(with_one) > rate(make_plan(PAIR, AMPLE, Request(context=2048, nodes=0), useless))


def test_a_smaller_draft_leaves_nothing_open_that_a_larger_one_did_not() -> None:
    for shape in ("chain", "tree"):
        for most, less in pairwise((15, 12, 11, 9, 7, 5, 4, 3, 2, 1)):
            sizes = {*draft_sizes(shape, less)} - {(shape, less)}  # type: ignore[arg-type]
            assert sizes <= {*draft_sizes(shape, most)}  # type: ignore[arg-type]
    assert ("chain", 10) in draft_sizes("chain", 10)


@st.composite
def any_costs(draw: st.DrawFn) -> MeasuredCosts:
    times = st.floats(1e-5, 1)
    tables = {
        name: make_row_costs({c: {rows: draw(times) for rows in (1, 4, 16)} for c in (128, 1024)})
        for name in draw(st.sets(st.sampled_from(["big", *EVERYTHING]), min_size=1))
    }
    nodes: dict[Shape, float] = {"chain": draw(st.floats(0, 0.01)), "tree": draw(st.floats(0, 0.01))}
    return MeasuredCosts(tables, draw(st.floats(0, 0.01)), nodes, 1e-4, 2e10, None, "native", True)


drawn = given(any_costs(), st.sampled_from([EVERYTHING, None]), st.sampled_from([None, "tree", "chain"]))


def _check_ladder(measured: MeasuredCosts, drafters: tuple[str, ...] | None, shape: Shape | None) -> None:
    request = Request(context=4096, drafters=drafters, shape=shape)
    _, plans = make_planner(STACK, AMPLE, request, measured).ladder(AMPLE.total_bytes)
    for before, after in pairwise(plans):
        assert after.needed_bytes < before.needed_bytes
        assert (after.context, rate(after)) <= (before.context, rate(before))


# A ladder of three levels takes 0.6 s.
test_whatever_was_measured_every_rung_takes_fewer_bytes_and_is_no_faster = settings(max_examples=6)(
    drawn(_check_ladder)
)
test_nor_is_any_after_many_more_measurements = pytest.mark.slow(settings(max_examples=100)(drawn(_check_ladder)))
