"""Seconds of a forward by rows and context: all levels, contexts and rows in turns, so that a slow moment hits all.

A context is taken to be in the cache without computing it: what rows of the cache say changes no time. Rows are not
padded here; what padding costs follows from the width it leads to.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

from memory.costs import RowCosts, make_row_costs
from runtime.kernels.weights.packed import Advance, Progress
from runtime.models.exact_widths import any_width
from runtime.models.ort_model import OrtModel


@dataclass(frozen=True)
class Effort:
    """What is measured: rows of one forward, tokens of context, and how often.

    Without ``contexts`` these are a short one and half of what there is room for. No further turn begins that would end
    after ``seconds``; one is always made.
    """

    rows: tuple[int, ...]
    contexts: tuple[int, ...]
    turns: int
    seconds: float


QUICK = Effort((1, 2, 4, 8, 16), (), turns=7, seconds=1.5)
FULL = Effort((1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64), (128, 512, 1024, 2048), turns=9, seconds=60)
# Rows of the tree that is compared with a chain: the anchor and a tree of seven.
_TREE_ROWS = 8
_SHORT_CONTEXT = 128


class Subject(NamedTuple):
    """A level that is timed. A forward gives at most ``logits_rows`` rows of logits; ``trees``: it is fed trees."""

    model: OrtModel
    logits_rows: int
    trees: bool


@dataclass(frozen=True)
class RowTimes:
    """``levels`` by name, and by name what a tree costs more than a chain of as many rows, per row behind the first."""

    levels: Mapping[str, RowCosts]
    tree_seconds: Mapping[str, float]


class _ForwardCase(NamedTuple):
    """One forward that is timed, of the level called ``name``."""

    name: str
    context: int
    rows: int
    tree: bool = False


def measure_rows(subjects: Mapping[str, Subject], effort: Effort, progress: Progress) -> RowTimes:
    """Times every level at the rows and contexts of ``effort`` that there is room for.

    The levels' caches and widths are used, and not put back.
    """
    cases = [case for name, subject in subjects.items() for case in _cases(name, subject, effort)]
    times: dict[_ForwardCase, list[float]] = defaultdict(list)
    # Only numbers of rows have to be warmed up, not contexts.
    first = list({(case.name, case.rows, case.tree): case for case in reversed(cases)}.values())
    with progress("timing forwards", len(first) + len(cases) * effort.turns) as advance:
        for subject in subjects.values():
            subject.model.widths = any_width(subject.model.max_rows)
            subject.model.fixed_width = False
        _turn(subjects, first[::-1], advance)
        start = perf_counter()
        for turn in range(1, effort.turns + 1):
            for case, seconds in _turn(subjects, cases, advance).items():
                times[case].append(seconds)
            if (perf_counter() - start) * (turn + 1) / turn > effort.seconds:
                advance(len(cases) * (effort.turns - turn))
                break
    medians = {case: _typical(seconds) for case, seconds in times.items()}
    return RowTimes(
        {name: _row_costs(name, medians) for name in subjects},
        {name: _tree_seconds(name, medians) for name in subjects},
    )


def _cases(name: str, subject: Subject, effort: Effort) -> Iterator[_ForwardCase]:
    """By context, then by rows; a tree stands beside the chain of as many rows."""
    cache = subject.model.cache
    # What the text itself may take: graphs know no positions beyond it. A cache that grows does not grow for this.
    positions = min(cache.capacity - subject.model.max_rows, cache.rows)
    most = max(min(subject.model.max_rows, effort.rows[-1], positions // 2), 1)
    room = max(positions - most, 1)
    rows = [*(count for count in effort.rows if count < most), most]
    contexts = sorted(
        {min(context, room) for context in effort.contexts or (min(_SHORT_CONTEXT, room // 8 + 1), room // 2 + 1)}
    )
    for context in contexts:
        for count in rows:
            yield _ForwardCase(name, context, count)
    if subject.trees and most > 1:
        width = next((count for count in rows if count >= _TREE_ROWS), most)
        yield _ForwardCase(name, contexts[-1], width, tree=True)


def _turn(subjects: Mapping[str, Subject], cases: list[_ForwardCase], advance: Advance) -> dict[_ForwardCase, float]:
    """Each case once; seconds of each."""
    times = {}
    for case in cases:
        subject = subjects[case.name]
        _pretend(subject.model, case.context)
        parents = [-1, *((row - 1) // 2 for row in range(1, case.rows))] if case.tree else None
        start = perf_counter()
        subject.model.forward([0] * case.rows, parents, max(case.rows - subject.logits_rows, 0))
        times[case] = perf_counter() - start
        advance(1)
    return times


def _typical(seconds: Sequence[float]) -> float:
    """The median of the faster half: another program that runs meanwhile only ever adds time."""
    return statistics.median(sorted(seconds)[: -(-len(seconds) // 2)])


def _row_costs(name: str, medians: Mapping[_ForwardCase, float]) -> RowCosts:
    table: dict[int, dict[int, float]] = defaultdict(dict)
    for case, seconds in medians.items():
        if case.name == name and not case.tree:
            table[case.context][case.rows] = seconds
    return make_row_costs(table)


def _tree_seconds(name: str, medians: Mapping[_ForwardCase, float]) -> float:
    """What a tree costs more than the chain it was timed beside, per row behind the first; 0 where there are none."""
    tree = next((case for case in medians if case.name == name and case.tree), None)
    if tree is None:
        return 0.0
    return max(medians[tree] - medians[tree._replace(tree=False)], 0.0) / (tree.rows - 1)


def _pretend(model: OrtModel, context: int) -> None:
    """Makes the cache hold ``context`` rows. They are written to: memory that nobody has written to costs nothing."""
    cache = model.cache
    held = min(cache.length, context)
    cache.rollback(held)
    if held < context:
        for array in cache.arrays:
            array[:, :, held:context] = 0
        cache.append([0] * (context - held))
