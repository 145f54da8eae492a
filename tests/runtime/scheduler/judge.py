"""What a scheduler delivered in a simulated world, against plain decoding and the best fixed choice there.

Plain decoding is charged what it would take at the moment of every step, so that a slow machine is slow for both. A
pause belongs to nobody.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from runtime.decoding.draft import DraftLimit, Pick, chain_limit
from runtime.scheduler.cost_based import CostScheduler
from runtime.scheduler.fixed import FixedScheduler
from runtime.scheduler.learned_state import LearnedState
from tests.runtime.scheduler.world import Situated, Ticks, World, learned_state_of, rate

# Seeds that every fixed choice is run with, and how near to the best one it must come to be run with the others.
_FIRST_SEEDS, _CLOSE = 4, 0.92


@dataclass(frozen=True)
class Moment:
    """One step: its ``tokens``, its ``seconds`` and those that plain decoding would have taken for a token."""

    start: int
    tokens: int
    seconds: float
    plain: float
    choice: str


def trace(
    world: World, answers: Sequence[int], learned: LearnedState | None = None, clock: Ticks | None = None
) -> list[Moment]:
    """Answers of so many tokens each, one after another, with what was learnt in those before them."""
    learnt, clock, moments = learned or learned_state_of(world), clock or Ticks(world.choice_ms / 1e3), []
    for end in accumulate(answers, initial=world.tokens):
        scheduler, last = CostScheduler(learnt, Situated(world), clock), None
        while world.tokens < end:
            before = clock.seconds
            pick = scheduler.pick(last)
            choosing = clock.seconds - before
            start, plain, paused = world.tokens, world.plain_seconds(), world.paused
            last = world.step(pick)
            seconds = last.seconds - (world.paused - paused) + choosing
            moments.append(Moment(start, len(last.tokens), seconds, plain, last.pick.name))
    return moments


def worst_window(moments: Sequence[Moment], tokens: int = 100, start: int = 32) -> float:
    """The least rate over any so many tokens behind ``start``, over that of plain decoding meanwhile."""
    worst, first, count, seconds, plain = float("inf"), 0, 0, 0.0, 0.0
    late = [moment for moment in moments if moment.start >= start]
    for moment in late:
        count, seconds, plain = count + moment.tokens, seconds + moment.seconds, plain + moment.tokens * moment.plain
        while count - late[first].tokens >= tokens:
            old = late[first]
            count, seconds, plain = count - old.tokens, seconds - old.seconds, plain - old.tokens * old.plain
            first += 1
        if count >= tokens:
            worst = min(worst, plain / seconds)
    return worst


def speedup(moments: Sequence[Moment], start: int, end: int) -> float:
    """The rate from one token to another over that of plain decoding meanwhile."""
    found = [moment for moment in moments if start <= moment.start < end]
    return sum(each.tokens * each.plain for each in found) / sum(each.seconds for each in found)


def fixed_picks(world: World) -> Iterator[Pick]:
    """What somebody might have chosen for all steps."""
    yield Pick(None)
    names = [level.name for level in world.levels]
    for name in names:
        for length in (1, 2, 3, 4, 5, 7, 9, 12):
            yield Pick(name, chain_limit(length))
        if world.trees:
            for nodes, depth in ((4, 2), (6, 3), (8, 3), (12, 4)):
                yield Pick(name, DraftLimit(nodes, depth, "tree"))
    if len(names) > 1:
        for length in (3, 5, 7, 9, 12):
            for inner in (1, 2, 3):
                yield Pick(">".join(names), chain_limit(length, chain_limit(inner)))


def best_fixed(make: Callable[[int], World], seeds: Sequence[int], tokens: int) -> tuple[float, str]:
    """The speedup over plain decoding of the best fixed choice in hindsight, and what that is.

    Choices that are clearly slower with the first seeds are not run with the others: luck moves rates by a few percent.
    """
    picks = list(fixed_picks(make(0)))
    first = {pick: _fixed_speedups(make, seeds[:_FIRST_SEEDS], tokens, pick) for pick in picks}
    enough = _CLOSE * max(map(statistics.harmonic_mean, first.values()))
    rates = {
        pick.name: statistics.harmonic_mean(found + _fixed_speedups(make, seeds[_FIRST_SEEDS:], tokens, pick))
        for pick, found in first.items()
        if statistics.harmonic_mean(found) >= enough
    }
    name = max(rates, key=lambda each: rates[each])
    return rates[name], name


def _fixed_speedups(make: Callable[[int], World], seeds: Sequence[int], tokens: int, pick: Pick) -> list[float]:
    """The speedup over plain decoding of one choice, world by world."""
    worlds = [make(seed) for seed in seeds]
    return [rate(world, tokens, FixedScheduler(pick.drafter, pick.limit)) * world.plain_seconds() for world in worlds]
