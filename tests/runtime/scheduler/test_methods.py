"""What each way to decode is expected to bring and to cost, against steps simulated one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from export.manifest import ParallelDrafts
from runtime.decoding.draft import DraftLimit, Pick, Step, chain_limit
from runtime.drafters.confidence import ConfidenceCalibration
from runtime.scheduler.acceptance_stats import AcceptanceStats
from runtime.scheduler.available import Stage, make_methods
from runtime.scheduler.fixed import FixedScheduler
from runtime.scheduler.forecast import Forecast, Room, fastest
from runtime.scheduler.latency import LatencyEstimates
from runtime.scheduler.methods import Chains, DecodingMethod, Hierarchies, ModelFree, Overlaps, Plain, Trees
from tests.memory.manifests import SMALL as SIZES
from tests.memory.manifests import make_level
from tests.runtime.scheduler.world import FLAT, MIDDLE, SMALL, STEEP, Rows, World, rate

ROOM = Room(12, True)


def _world(rows: Rows, small: float = 0.8, middle: float = 0.9, inner: float = 0.8) -> World:
    chances = {"small": small, "middle": middle, "small>middle": inner, "suffix": 0.1}
    return World({"target": rows, "small": SMALL, "middle": MIDDLE}, chances, noise=0.0)


def _latency(world: World) -> LatencyEstimates:
    return LatencyEstimates(world.costs, "target", lambda rows: rows)


def _best(method: DecodingMethod, world: World) -> Forecast | None:
    return fastest([method.forecast(limit, _latency(world)) for limit in method.limits(ROOM)])


def _hierarchy(world: World) -> Hierarchies:
    outer, inner = AcceptanceStats(0.9), AcceptanceStats(0.8)
    return Hierarchies("small>middle", ("small", "middle"), (outer, inner), lambda: ROOM)


METHODS = {
    "plain": lambda world: (Plain(), [chain_limit(0)]),
    "chain": lambda world: (
        Chains("small", AcceptanceStats(0.8), ConfidenceCalibration()),
        [chain_limit(n) for n in (1, 2, 4, 8)],
    ),
    "tree": lambda world: (
        Trees("small", AcceptanceStats(0.8)),
        [DraftLimit(n, d, "tree") for n, d in ((3, 2), (8, 3))],
    ),
    "hierarchy": lambda world: (
        _hierarchy(world),
        [chain_limit(n, chain_limit(inner)) for n, inner in ((2, 1), (4, 1), (6, 3), (10, 3))],
    ),
}


@pytest.mark.parametrize("rows", [FLAT, STEEP], ids=["flat", "steep"])
@pytest.mark.parametrize("kind", METHODS)
def test_forecasts_are_within_15_percent_of_what_steps_deliver(kind: str, rows: Rows) -> None:
    world = _world(rows)
    method, limits = METHODS[kind](world)
    for limit in limits:
        forecast = method.forecast(limit, _latency(world))
        scheduler = FixedScheduler(forecast.pick.drafter, limit)
        delivered = rate(_world(rows), 4000, scheduler)
        assert forecast.rate == pytest.approx(delivered, rel=0.15), forecast.pick.name


def test_steps_with_trees_tell_what_chains_would_bring() -> None:
    """A drafter that is much worse than was known: chains need not be tried for that to be seen."""
    world, acceptance = _world(FLAT, small=0.4), AcceptanceStats(0.9)
    trees, chains = Trees("small", acceptance), Chains("small", acceptance, ConfidenceCalibration())
    for _ in range(300):
        trees.observe(world.step(Pick("small", DraftLimit(8, 3, "tree"))))
    latency = _latency(world)
    truth = Chains("small", AcceptanceStats(0.4), ConfidenceCalibration()).forecast(chain_limit(1), latency)
    assert chains.forecast(chain_limit(1), latency).tokens == pytest.approx(truth.tokens, rel=0.1)
    assert trees.forecast(DraftLimit(8, 3, "tree"), latency).tokens > 1.4 * truth.tokens


@pytest.mark.parametrize(("scale", "drift"), [(1.0, 2.0), (0.02, 1.0)], ids=["a large model", "a small model"])
def test_trees_that_take_twice_as_long_tell_of_a_slow_machine_only_with_a_large_model(
    scale: float, drift: float
) -> None:
    """With a small one it is what trees need beside the forward."""
    world = _world({count: scale * ms for count, ms in FLAT.items()})
    latency, method = _latency(world), Trees("small", AcceptanceStats(0.8))
    forecast = method.forecast(DraftLimit(6, 3, "tree"), latency)
    for _ in range(40):
        step = world.step(forecast.pick)
        latency.update(forecast, replace(step, target_seconds=2 * step.target_seconds))
    assert latency.slowdown == pytest.approx(drift, rel=0.05)


def test_drafts_of_repetition_that_never_stand_are_found_out_within_six() -> None:
    method, latency = ModelFree("suffix", 7), _latency(_world(FLAT))
    for _ in range(6):
        method.observe(Step((1,), ("x",), 3, 0, 0.0, 0.03, 0.03))
    plain = Plain().forecast(chain_limit(0), latency)
    assert method.forecast(chain_limit(7), latency).rate < plain.rate


def test_every_family_names_the_drafter_it_picks() -> None:
    world = _world(FLAT)
    methods: list[DecodingMethod] = [make(world)[0] for make in METHODS.values()]
    methods += [ModelFree("suffix", 7), Overlaps("ahead:small", "small", AcceptanceStats(0.8))]
    for method in methods:
        best = _best(method, world)
        assert best is not None
        assert (best.pick.drafter, best.method) == (method.drafter, method.name)
        assert best.pick.name.startswith(method.name)


def test_no_family_drafts_more_than_there_is_room_for() -> None:
    world = _world(FLAT)
    for nodes in (1, 2, 5):
        for make in METHODS.values():
            for limit in make(world)[0].limits(Room(nodes, True)):
                assert limit.nodes <= nodes
        assert not list(Trees("small", AcceptanceStats(0.8)).limits(Room(nodes, False)))


def test_of_drafts_that_are_about_as_fast_the_smallest_is_taken() -> None:
    world = _world(dict.fromkeys(FLAT, 26.0), small=0.5)  # rows cost nothing: the longest is the fastest
    method = Chains("small", AcceptanceStats(0.5), ConfidenceCalibration())
    latency, best = _latency(world), _best(method, world)
    rates = {limit.nodes: method.forecast(limit, latency).rate for limit in method.limits(ROOM)}
    assert best is not None
    assert best.rate < max(rates.values())
    assert best.rate >= 0.97 * max(rates.values())
    assert all(rate < best.rate for nodes, rate in rates.items() if nodes < best.pick.limit.nodes)


def test_what_steps_take_corrects_what_was_calibrated() -> None:
    """A drafter three times as slow as calibrated, on a target of which four rows are twice as slow."""
    world = _world(FLAT)
    slow = {"small": {count: 3 * ms for count, ms in SMALL.items()}, "target": {**FLAT, 4: 2 * FLAT[4]}}
    real = World(world.rows, world.chances, noise=0.0, real=slow)
    latency, method, plain = _latency(world), Chains("small", AcceptanceStats(0.8), ConfidenceCalibration()), Plain()
    for _ in range(60):
        forecast = method.forecast(chain_limit(3), latency)
        latency.update(forecast, real.step(forecast.pick))
        latency.update(plain.forecast(chain_limit(0), latency), real.step(Pick(None)))
    assert latency.target(4) / latency.target(1) == pytest.approx(2 * FLAT[4] / FLAT[1], rel=0.05)
    step = real.step(forecast.pick)
    assert latency.expected(forecast, 3) * latency.slowdown == pytest.approx(step.seconds, rel=0.05)


def test_rows_that_are_dearer_than_any_line_through_the_others_are_found_out() -> None:
    """Two rows and four take what was calibrated and eight twice as much, as where kernels run blocks of rows."""
    world = _world(FLAT)
    real = World(world.rows, world.chances, noise=0.0, real={"target": {**FLAT, 8: 2 * FLAT[8], 16: 2 * FLAT[16]}})
    latency, method, plain = _latency(world), Chains("small", AcceptanceStats(0.8), ConfidenceCalibration()), Plain()
    for _ in range(60):
        for length in (7, 1, 3):
            forecast = method.forecast(chain_limit(length), latency)
            latency.update(forecast, real.step(forecast.pick))
        latency.update(plain.forecast(chain_limit(0), latency), real.step(Pick(None)))
    found = [latency.target(rows) / latency.target(1) for rows in (2, 4, 8)]
    assert found == pytest.approx([FLAT[2] / FLAT[1], FLAT[4] / FLAT[1], 2 * FLAT[8] / FLAT[1]], rel=0.1)


def test_a_machine_that_slows_down_changes_no_choice() -> None:
    world = _world(FLAT)
    slow = World(world.rows, world.chances, noise=0.0, machine=lambda tokens, seconds: 3.0)
    latency, method = _latency(world), Chains("small", AcceptanceStats(0.8), ConfidenceCalibration())
    forecast = method.forecast(chain_limit(3), latency)
    for _ in range(40):
        latency.update(forecast, slow.step(forecast.pick))
    assert latency.slowdown == pytest.approx(3.0, rel=0.01)
    assert method.forecast(chain_limit(3), latency).seconds == pytest.approx(forecast.seconds, rel=0.02)
    assert (latency.target(1), latency.target(4)) == pytest.approx((0.0261, 0.0386), rel=0.02)


def test_a_level_that_was_not_calibrated_is_never_the_fastest() -> None:
    method = Chains("unknown", AcceptanceStats(1.0), ConfidenceCalibration())
    best = _best(method, _world(FLAT))
    assert best is not None
    assert best.rate == 0.0


def test_a_chain_from_one_forward_costs_that_forward_however_long_it_is() -> None:
    world = _world(FLAT)
    apart, together = _latency(world), LatencyEstimates(world.costs, "target", lambda rows: rows, {"small"})
    method = Chains("small", AcceptanceStats(0.8), ConfidenceCalibration(), longest=5)
    assert [limit.depth for limit in method.limits(ROOM)] == [1, 2, 3, 4, 5]
    for limit in method.limits(ROOM):
        one, each = (method.forecast(limit, latency) for latency in (together, apart))
        nodes = limit.depth * together.node_seconds["chain"]
        rows = round(one.tokens) + limit.depth - 1
        assert one.draft_seconds == pytest.approx(together.forward("small", rows) + nodes)
        assert each.draft_seconds == pytest.approx(limit.depth * apart.forward("small", 1) + nodes)
        assert (one.tokens, one.drafted, each.drafted) == (each.tokens, 0, limit.depth)
        # To stop early saves rows of the target, and no forward.
        verifying = (together.target(1 + limit.depth) - together.target(1)) / limit.depth
        assert one.node_seconds == pytest.approx(verifying + together.node_seconds["chain"])


def test_levels_that_draft_in_parallel_have_chains_of_their_length_and_no_trees() -> None:
    level = replace(make_level("small", "drafter", SIZES, 1000, agreement=0.8), parallel=ParallelDrafts(1, 4))
    calibrations = {"small": ConfidenceCalibration()}
    found = {method.name: method for method in make_methods(Stage([level], calibrations, lambda name: ROOM, bool))}
    assert "small-tree" not in found
    assert [limit.depth for limit in found["small-chain"].limits(ROOM)] == [1, 2, 3, 4]
