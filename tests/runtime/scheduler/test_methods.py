"""What each way to decode is expected to bring and to cost, against steps simulated one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runtime.decoding.draft import DraftLimit, Pick, Step, chain_limit
from runtime.drafters.confidence import Calibration
from runtime.scheduler.acceptance_stats import Acceptance
from runtime.scheduler.fixed import FixedScheduler
from runtime.scheduler.forecast import Forecast, Room, fastest
from runtime.scheduler.latency import Speeds
from runtime.scheduler.methods import Family, forecasts_of
from runtime.scheduler.methods.chains import Chains
from runtime.scheduler.methods.hierarchies import Hierarchies
from runtime.scheduler.methods.model_free import ModelFree
from runtime.scheduler.methods.overlaps import Overlaps
from runtime.scheduler.methods.plain import Plain
from runtime.scheduler.methods.trees import Trees
from tests.runtime.scheduler.world import FLAT, MIDDLE, SMALL, STEEP, Rows, World, rate

ROOM = Room(12, True)


def _world(rows: Rows, small: float = 0.8, middle: float = 0.9, inner: float = 0.8) -> World:
    chances = {"small": small, "middle": middle, "small>middle": inner, "suffix": 0.1}
    return World({"target": rows, "small": SMALL, "middle": MIDDLE}, chances, noise=0.0)


def _speeds(world: World) -> Speeds:
    return Speeds(world.costs, "target", lambda rows: rows)


def _best(family: Family, world: World) -> Forecast | None:
    return fastest(forecasts_of(family, _speeds(world), ROOM))


def _hierarchy(world: World) -> Hierarchies:
    outer, inner = Acceptance(0.9), Acceptance(0.8)
    return Hierarchies("small>middle", "small", "middle", outer, inner, lambda: ROOM)


FAMILIES = {
    "plain": lambda world: (Plain(), [chain_limit(0)]),
    "chain": lambda world: (Chains("small", Acceptance(0.8), Calibration()), [chain_limit(n) for n in (1, 2, 4, 8)]),
    "tree": lambda world: (Trees("small", Acceptance(0.8)), [DraftLimit(n, d, "tree") for n, d in ((3, 2), (8, 3))]),
    "hierarchy": lambda world: (
        _hierarchy(world),
        [chain_limit(n, chain_limit(inner)) for n, inner in ((2, 1), (4, 1), (6, 3), (10, 3))],
    ),
}


@pytest.mark.parametrize("rows", [FLAT, STEEP], ids=["flat", "steep"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_forecasts_are_within_15_percent_of_what_steps_deliver(kind: str, rows: Rows) -> None:
    world = _world(rows)
    family, limits = FAMILIES[kind](world)
    for limit in limits:
        forecast = family.forecast(limit, _speeds(world))
        scheduler = FixedScheduler(forecast.pick.drafter, limit)
        delivered = rate(_world(rows), 4000, scheduler)
        assert forecast.rate == pytest.approx(delivered, rel=0.15), forecast.pick.name


def test_steps_with_trees_tell_what_chains_would_bring() -> None:
    """A drafter that is much worse than was known: chains need not be tried for that to be seen."""
    world, acceptance = _world(FLAT, small=0.4), Acceptance(0.9)
    trees, chains = Trees("small", acceptance), Chains("small", acceptance, Calibration())
    for _ in range(300):
        trees.observe(world.step(Pick("small", DraftLimit(8, 3, "tree"))))
    speeds = _speeds(world)
    truth = Chains("small", Acceptance(0.4), Calibration()).forecast(chain_limit(1), speeds)
    assert chains.forecast(chain_limit(1), speeds).tokens == pytest.approx(truth.tokens, rel=0.1)
    assert trees.forecast(DraftLimit(8, 3, "tree"), speeds).tokens > 1.4 * truth.tokens


@pytest.mark.parametrize(("scale", "drift"), [(1.0, 2.0), (0.02, 1.0)], ids=["a large model", "a small model"])
def test_trees_that_take_twice_as_long_tell_of_a_slow_machine_only_with_a_large_model(
    scale: float, drift: float
) -> None:
    """With a small one it is what trees need beside the forward."""
    world = _world({count: scale * ms for count, ms in FLAT.items()})
    speeds, family = _speeds(world), Trees("small", Acceptance(0.8))
    forecast = family.forecast(DraftLimit(6, 3, "tree"), speeds)
    for _ in range(40):
        step = world.step(forecast.pick)
        speeds.saw(forecast, replace(step, target_seconds=2 * step.target_seconds))
    assert speeds.slowness == pytest.approx(drift, rel=0.05)


def test_drafts_of_repetition_that_never_stand_are_found_out_within_six() -> None:
    family, speeds = ModelFree("suffix", 7), _speeds(_world(FLAT))
    for _ in range(6):
        family.observe(Step((1,), ("x",), 3, 0, 0.0, 0.03, 0.03))
    plain = Plain().forecast(chain_limit(0), speeds)
    assert family.forecast(chain_limit(7), speeds).rate < plain.rate


def test_every_family_names_the_drafter_it_picks() -> None:
    world = _world(FLAT)
    families: list[Family] = [make(world)[0] for make in FAMILIES.values()]
    families += [ModelFree("suffix", 7), Overlaps("ahead:small", "small", Acceptance(0.8))]
    for family in families:
        best = _best(family, world)
        assert best is not None
        assert (best.pick.drafter, best.family) == (family.drafter, family.name)
        assert best.pick.name.startswith(family.name)


def test_no_family_drafts_more_than_there_is_room_for() -> None:
    world = _world(FLAT)
    for nodes in (1, 2, 5):
        for make in FAMILIES.values():
            for limit in make(world)[0].limits(Room(nodes, True)):
                assert limit.nodes <= nodes
        assert not list(Trees("small", Acceptance(0.8)).limits(Room(nodes, False)))


def test_of_drafts_that_are_about_as_fast_the_smallest_is_taken() -> None:
    world = _world(dict.fromkeys(FLAT, 26.0), small=0.5)  # rows cost nothing: the longest is the fastest
    family = Chains("small", Acceptance(0.5), Calibration())
    speeds, best = _speeds(world), _best(family, world)
    rates = {limit.nodes: family.forecast(limit, speeds).rate for limit in family.limits(ROOM)}
    assert best is not None
    assert best.rate < max(rates.values())
    assert best.rate >= 0.97 * max(rates.values())
    assert all(rate < best.rate for nodes, rate in rates.items() if nodes < best.pick.limit.nodes)


def test_what_steps_take_corrects_what_was_calibrated() -> None:
    """A drafter three times as slow as calibrated, on a target of which four rows are twice as slow."""
    world = _world(FLAT)
    slow = {"small": {count: 3 * ms for count, ms in SMALL.items()}, "target": {**FLAT, 4: 2 * FLAT[4]}}
    real = World(world.rows, world.chances, noise=0.0, real=slow)
    speeds, family, plain = _speeds(world), Chains("small", Acceptance(0.8), Calibration()), Plain()
    for _ in range(60):
        forecast = family.forecast(chain_limit(3), speeds)
        speeds.saw(forecast, real.step(forecast.pick))
        speeds.saw(plain.forecast(chain_limit(0), speeds), real.step(Pick(None)))
    assert speeds.target(4) / speeds.target(1) == pytest.approx(2 * FLAT[4] / FLAT[1], rel=0.05)
    step = real.step(forecast.pick)
    assert speeds.expected(forecast, 3) * speeds.slowness == pytest.approx(step.seconds, rel=0.05)


def test_a_machine_that_slows_down_changes_no_choice() -> None:
    world = _world(FLAT)
    slow = World(world.rows, world.chances, noise=0.0, machine=lambda tokens, seconds: 3.0)
    speeds, family = _speeds(world), Chains("small", Acceptance(0.8), Calibration())
    forecast = family.forecast(chain_limit(3), speeds)
    for _ in range(40):
        speeds.saw(forecast, slow.step(forecast.pick))
    assert speeds.slowness == pytest.approx(3.0, rel=0.01)
    assert family.forecast(chain_limit(3), speeds).seconds == pytest.approx(forecast.seconds, rel=0.02)
    assert (speeds.target(1), speeds.target(4)) == pytest.approx((0.0261, 0.0386), rel=0.02)


def test_a_level_that_was_not_calibrated_is_never_the_fastest() -> None:
    family = Chains("unknown", Acceptance(1.0), Calibration())
    best = _best(family, _world(FLAT))
    assert best is not None
    assert best.rate == 0.0
