"""Nothing locks the scheduler out: devices, texts, drafters and what happens to a process, all against all.

In every world drafts are back at the rate of the best fixed choice within 50 tokens of whatever happened, and nowhere
is less delivered than 0.95 of plain decoding's rate, over any 100 tokens. What is measured and what is allowed for luck
stands beside each law.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import pytest

from runtime.decoding.draft import Pick, chain_limit
from runtime.scheduler.fixed import FixedScheduler
from tests.runtime.scheduler.judge import Moment, best_fixed, speedup, trace, worst_window
from tests.runtime.scheduler.recorded import RECORDED
from tests.runtime.scheduler.world import (
    FLAT,
    MIDDLE,
    SMALL,
    STEEP,
    WIDE,
    Rows,
    Ticks,
    World,
    learned_state_of,
    level,
    rate,
)

ROWS = {"wide": WIDE, "flat": FLAT, "steep": STEEP}
EASY, HARD = 0.92, 0.35
# The token before which something happens, and how many answers of how many tokens there are.
EVENT, ANSWERS = 150, (100, 200, 150, 150)
SEEDS = range(5)
# The best of forty choices is the luckiest of those that are about as good: judged by other worlds than the scheduler,
# and by many, so that no luck is in it.
BEST_SEEDS = range(100, 112)
# A step brings 1 to 13 tokens: over 200 tokens of 8 seeds the mean rate is known to within so much.
LUCK = 0.02
# What 100 tokens with noise of 5% a forward say about the last 1%, at the worst of some thousand places.
NOISE = 0.02


class Throttled:
    """Half as fast for 30 seconds, from ``EVENT`` on."""

    def __init__(self) -> None:
        self._since: float | None = None

    def __call__(self, tokens: int, seconds: float) -> float:
        if tokens < EVENT:
            return 1.0
        self._since = seconds if self._since is None else self._since
        return 2.0 if seconds - self._since < 30 else 1.0


class Stolen:
    """Another process takes a core, now more of it and now less, for 200 tokens from ``EVENT`` on."""

    def __init__(self) -> None:
        self._random = random.Random(1)

    def __call__(self, tokens: int, seconds: float) -> float:
        return self._random.uniform(1.6, 2.4) if EVENT <= tokens < EVENT + 200 else 1.0


@dataclass(frozen=True)
class Event:
    """What happens to the machine; a new ``machine`` for every world, since it remembers."""

    machine: Callable[[], Callable[[int, float], float]] = lambda: lambda tokens, seconds: 1.0
    pauses: Sequence[tuple[int, float]] = ()


EVENTS = {
    "nothing": Event(),
    **{f"held up {seconds} s": Event(pauses=((EVENT, seconds),)) for seconds in (0.1, 1.0, 5.0)},
    "suspended for a minute": Event(pauses=((EVENT, 60.0),)),
    "held up again and again": Event(pauses=tuple((tokens, 0.2) for tokens in range(100, 300, 20))),
    "throttled by half": Event(Throttled),
    "a stolen core": Event(Stolen),
}
# Of the times that it is held up once, the middle one stands for all.
LATER = ("held up 0.1 s", "held up 5.0 s", "suspended for a minute")

TextEase = Callable[[float], Callable[[int], float]]
TEXTS: dict[str, TextEase] = {
    "easy": lambda quality: lambda tokens: quality,
    "hard": lambda quality: lambda tokens: 0.45 * quality,
    "changing": lambda quality: lambda tokens: (1.0 if tokens // 120 % 2 == 0 else 0.2) * quality,
}
DRAFTERS = {"good": 0.92, "bad": 0.15, "stack": 0.96}
FEW = [("wide", "easy", "stack"), ("flat", "easy", "good"), ("flat", "changing", "bad"), ("steep", "changing", "good")]
# What a calibration on a busy machine found, and what is true.
MISJUDGED = [("steep", "wide"), ("wide", "steep"), ("flat", "wide"), ("wide", "flat")]
# Every event in one of these worlds, and every world with some: the others are slow.
FEW_EVENTS = [(*FEW[number % 4], event) for number, event in enumerate(event for event in EVENTS if event not in LATER)]
REST = [(*world, event) for world in FEW for event in EVENTS if (*world, event) not in FEW_EVENTS]
ALL = [(rows, text, drafter) for rows in ROWS for text in TEXTS for drafter in DRAFTERS]


def make_world(rows: str, text: str, drafter: str, event: str, seed: int) -> World:
    quality = DRAFTERS[drafter]
    levels = (level("small", "drafter", 0.85),)
    chances = {"small": TEXTS[text](quality), "suffix": 0.03}
    if drafter == "stack":
        levels = (*levels, level("middle", "intermediate", 0.93))
        chances |= {"small": TEXTS[text](0.88), "middle": TEXTS[text](quality), "small>middle": TEXTS[text](0.9)}
    costs = {"target": ROWS[rows], "small": SMALL, "middle": {count: ms / 4 for count, ms in MIDDLE.items()}}
    happens = EVENTS[event]
    return World(costs, chances, levels=levels, machine=happens.machine(), pauses=happens.pauses, seed=seed)


def mistaken(believed: str, true: str, seed: int) -> World:
    """Calibrated as ``believed`` on a machine where rows cost as in ``true``."""
    real = {"target": {rows: ms * ROWS[believed][1] / ROWS[true][1] for rows, ms in ROWS[true].items()}}
    return replace(make_world(believed, "easy", "good", "nothing", seed), real=real)


def _check(rows: str, text: str, drafter: str, event: str) -> None:
    traces = [trace(make_world(rows, text, drafter, event, seed), ANSWERS) for seed in SEEDS]
    assert min(map(worst_window, traces)) >= 0.95 - NOISE
    assert _mean(traces, 0, 48) >= 0.9
    best, name = _best(rows, text, drafter)
    assert _mean(traces, 0, sum(ANSWERS)) >= (0.95 - LUCK / 2) * best, name
    if text != "changing":
        assert _mean(traces, EVENT + 50, EVENT + 250) >= (0.95 - LUCK) * best, name


@lru_cache
def _best(rows: str, text: str, drafter: str) -> tuple[float, str]:
    return best_fixed(lambda seed: make_world(rows, text, drafter, "nothing", seed), BEST_SEEDS, sum(ANSWERS))


def _mean(traces: Sequence[list[Moment]], start: int, end: int) -> float:
    return statistics.harmonic_mean([speedup(moments, start, end) for moments in traces])


@pytest.mark.parametrize(
    ("rows", "text", "drafter", "event"), [*FEW_EVENTS, *(pytest.param(*case, marks=pytest.mark.slow) for case in REST)]
)
def test_no_event_keeps_the_scheduler_from_the_best_way(rows: str, text: str, drafter: str, event: str) -> None:
    _check(rows, text, drafter, event)


@pytest.mark.slow
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize(("rows", "text", "drafter"), [world for world in ALL if world not in FEW])
def test_nor_does_any_in_any_other_world(rows: str, text: str, drafter: str, event: str) -> None:
    _check(rows, text, drafter, event)


@pytest.mark.parametrize(("name", "enough"), [("recorded", 0.85), ("recorded, busy calibration", 0.85)])
def test_recorded_answers_are_decoded_nearly_as_fast_as_by_the_best_of_some_fixed_choices(
    name: str, enough: float
) -> None:
    """Measured over 12 seeds: 0.92 and 0.91 of the best of forty choices."""
    make = RECORDED[name]
    found = [speedup(trace(make(seed), make(seed).lengths), 0, 10_000) for seed in range(3)]
    picks = [Pick("middle", chain_limit(length)) for length in (3, 5, 7, 9)] + [Pick("small", chain_limit(4))]
    fixed = [rate(make(9), 600, FixedScheduler(each.drafter, each.limit)) * make(9).plain_seconds() for each in picks]
    assert statistics.harmonic_mean(found) >= enough * max(fixed)


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_without_a_drafter_it_decodes_plainly_or_repeats(rows: Rows) -> None:
    for seed in SEEDS:
        moments = trace(World({"target": rows}, {"suffix": 0.0}, levels=(), seed=seed), ANSWERS)
        assert worst_window(moments) >= 0.95
        assert {moment.choice.split("-")[0] for moment in moments} <= {"plain", "suffix"}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_after_any_history_a_good_drafter_is_drafting_within_fifty_tokens(rows: Rows) -> None:
    """Whatever both budgets and the estimates have come to: wrong drafts and hiccups for 300 tokens."""
    found = []
    for seed in range(12):
        chances = {"small": lambda tokens: 0.0 if tokens < 300 else 0.95, "suffix": 0.0}
        pauses = [(tokens, 1.0) for tokens in range(20, 300, 20)]
        world = World({"target": rows, "small": SMALL}, chances, pauses=pauses, seed=seed)
        moments = trace(world, [300, 200])
        found.append(next(moment.start for moment in moments if moment.start >= 300 and moment.tokens > 1) - 300)
    assert statistics.median(found) <= 50


def test_a_step_that_is_held_up_is_charged_what_was_expected_of_it() -> None:
    """A second in the first draft: nothing is owed for it."""
    world = World({"target": FLAT, "small": SMALL}, {"small": 0.9, "suffix": 0.0}, pauses=[(0, 1.0)], trees=False)
    learned = learned_state_of(world)
    moments = trace(world, [50], learned)
    drafting = [moment for moment in moments if moment.choice != Pick(None).name]
    assert len(drafting) >= 0.9 * len(moments)
    assert learned.loss_budget.balance > 0


def test_where_models_are_small_choosing_takes_half_a_hundredth_of_the_time() -> None:
    """By a clock that says a fifth of a millisecond for every choice, where a step takes twice as long as that."""
    tiny = {count: ms / 100 for count, ms in STEEP.items()}
    for chance in (0.0, 0.9):
        chances = {"small": chance, "suffix": 0.0}
        world = World({"target": tiny, "small": SMALL}, chances, step_ms=0.015, trees=False)
        clock = Ticks()
        moments = trace(world, [2000] * 2, clock=clock)
        assert clock.seconds <= 0.005 * sum(moment.seconds for moment in moments)
        assert worst_window(moments) >= 0.95 - NOISE


@pytest.mark.parametrize(
    ("believed", "true"),
    [pytest.param(*pair, marks=pytest.mark.slow) if pair in MISJUDGED[1:3] else pair for pair in MISJUDGED],
)
def test_a_calibration_on_a_busy_machine_is_found_out(believed: str, true: str) -> None:
    """All row counts look too dear, or too cheap: the drafts that pay are found, though they never looked like that."""
    traces = [trace(mistaken(believed, true, seed), ANSWERS) for seed in SEEDS]
    best, name = best_fixed(lambda seed: mistaken(believed, true, seed), BEST_SEEDS, sum(ANSWERS))
    assert min(map(worst_window, traces)) >= 0.95 - NOISE
    assert _mean(traces, 0, sum(ANSWERS)) >= 0.9 * best, name
