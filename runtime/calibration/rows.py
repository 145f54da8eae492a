"""Times forwards by rows and context: levels, contexts and rows take turns, so that a slow moment affects all of them.

A context is claimed to be in the cache without being computed, since times do not depend on the content of the cache,
unless rows choose experts.
Rows are not padded here: the cost of padding follows from the width to which it leads.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

import numpy as np

from memory.costs import RowCosts, make_row_costs
from runtime.decoding.protocols import HiddenInput
from runtime.kernels.weights.packed import Advance, Progress
from runtime.models.exact_widths import any_width
from runtime.models.ort_model import OrtModel


@dataclass(frozen=True)
class Effort:
    """What is measured: rows of one forward, tokens of context, and how often.

    Without ``contexts``, a short one and half of the longest possible are used. No turn begins that would end after
    ``seconds``; the first one always runs.
    """

    rows: tuple[int, ...]
    contexts: tuple[int, ...]
    turns: int
    seconds: float


QUICK = Effort((1, 2, 4, 8, 16), (), turns=7, seconds=1.5)
FULL = Effort((1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64), (128, 512, 1024, 2048), turns=9, seconds=60)
# Rows of the tree that is compared with a chain: the anchor and seven nodes.
_TREE_ROWS = 8
_SHORT_CONTEXT = 128
# Between tokens: no vocabulary has a size that it divides.
_STRIDE = 7919


class Subject(NamedTuple):
    """A level to be timed. A forward gives at most ``logits_rows`` rows of logits; ``trees``: it is given trees.

    ``experts``: each row chooses some, so its time depends on tokens, and on what it attends to. ``heads``: of a stack
    that one forward computes, so many; each row with logits is that of another one.
    """

    model: OrtModel
    logits_rows: int
    trees: bool
    experts: bool = False
    heads: int = 0

    def hidden(self, rows: int, logits_from: int) -> HiddenInput | None:
        """The hidden rows that a forward reads, where its work depends on them."""
        if not self.heads:
            return None
        read = np.zeros((rows, self.model.own_width), np.float32)
        read[:, -1] = np.clip(np.arange(rows) - logits_from, 0, self.heads - 1)
        return HiddenInput(read, own=True)


@dataclass(frozen=True)
class RowTimes:
    """Times by level, and by level what a tree costs more than a chain, per row after the first."""

    levels: Mapping[str, RowCosts]
    tree_seconds: Mapping[str, float]


class _ForwardCase(NamedTuple):
    """One forward to be timed, of the level called ``name``."""

    name: str
    context: int
    rows: int
    tree: bool = False


def measure_rows(subjects: Mapping[str, Subject], effort: Effort, progress: Progress) -> RowTimes:
    """Times every level at the rows and contexts of ``effort`` for which there is room.

    The levels' caches and widths are changed.
    """
    cases = [case for name, subject in subjects.items() for case in _cases(name, subject, effort)]
    times: dict[_ForwardCase, list[float]] = defaultdict(list)
    # Numbers of rows have to be warmed up, contexts do not.
    first = list({(case.name, case.rows, case.tree): case for case in reversed(cases)}.values())
    with progress("timing forwards", len(first) + len(cases) * effort.turns) as advance:
        for subject in subjects.values():
            subject.model.widths = any_width(subject.model.max_rows)
            subject.model.fixed_width = False
            if subject.experts:
                _read_text(subject.model)
        _turn(subjects, first[::-1], 0, advance)
        start = perf_counter()
        for turn in range(1, effort.turns + 1):
            for case, seconds in _turn(subjects, cases, turn, advance).items():
                times[case].append(seconds)
            if (perf_counter() - start) * (turn + 1) / turn > effort.seconds:
                advance(len(cases) * (effort.turns - turn))
                break
    medians = {case: _typical(seconds) for case, seconds in times.items()}
    return RowTimes(
        {name: _row_costs(name, medians) for name in subjects},
        {name: _tree_seconds(name, {case: min(seconds) for case, seconds in times.items()}) for name in subjects},
    )


def _cases(name: str, subject: Subject, effort: Effort) -> Iterator[_ForwardCase]:
    """The forwards by context, then by rows; a tree follows the chain of as many rows."""
    cache = subject.model.cache
    # The longest context: graphs know no positions beyond it, and a cache that can grow is not grown for this.
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


def _turn(
    subjects: Mapping[str, Subject], cases: list[_ForwardCase], turn: int, advance: Advance
) -> dict[_ForwardCase, float]:
    """Runs each forward once; its seconds."""
    times = {}
    name = ""
    for case in cases:
        subject = subjects[case.name]
        if case.name != name:  # a cache may be that of another level, whose rows it would count
            name = case.name
            for other in subjects.values():
                other.model.cache.rollback(0)
        _pretend(subject.model, case.context, keeps=subject.experts)
        parents = [-1, *((row - 1) // 2 for row in range(1, case.rows))] if case.tree else None
        tokens = varied_tokens(case.rows, turn, subject.model.vocab_size) if subject.experts else [0] * case.rows
        first = max(case.rows - subject.logits_rows, 0)
        hidden = subject.hidden(case.rows, first)
        start = perf_counter()
        subject.model.forward(tokens, parents, first, hidden)
        times[case] = perf_counter() - start
        advance(1)
    return times


def varied_tokens(rows: int, turn: int, vocab_size: int) -> list[int]:
    """Tokens that differ within a forward and from turn to turn, so that rows choose experts of their own."""
    return [(turn * rows + row) * _STRIDE % vocab_size for row in range(rows)]


def _typical(seconds: Sequence[float]) -> float:
    """The median of the faster half: other programs only ever add time."""
    return statistics.median(sorted(seconds)[: -(-len(seconds) // 2)])


def _row_costs(name: str, medians: Mapping[_ForwardCase, float]) -> RowCosts:
    table: dict[int, dict[int, float]] = defaultdict(dict)
    for case, seconds in medians.items():
        if case.name == name and not case.tree:
            table[case.context][case.rows] = seconds
    return make_row_costs(table)


def _tree_seconds(name: str, least: Mapping[_ForwardCase, float]) -> float:
    """What a tree costs more than the chain beside it, per row after the first; 0 without trees.

    Both take nearly the same, so their difference is taken of the least seconds: on a machine whose forwards vary by a
    third, that of typical ones once was 5.6 ms a node, and no tree was drafted.
    """
    tree = next((case for case in least if case.name == name and case.tree), None)
    if tree is None:
        return 0.0
    return max(least[tree] - least[tree._replace(tree=False)], 0.0) / (tree.rows - 1)


def _read_text(model: OrtModel) -> None:
    """Fills the cache with rows of a short text, again and again: behind rows of zeros, experts would be others."""
    cache = model.cache
    read = min(_SHORT_CONTEXT, cache.rows)
    cache.rollback(0)
    model.prefill(varied_tokens(read, 0, model.vocab_size))
    for array in cache.arrays:
        for start in range(read, cache.rows, read):
            count = min(read, cache.rows - start)
            array[:, :, start : start + count] = array[:, :, :count]


def _pretend(model: OrtModel, context: int, keeps: bool) -> None:
    """Makes the cache claim ``context`` rows. They are written to, since reading untouched memory costs nothing.

    ``keeps``: they have been written, and are claimed as they are.
    """
    cache = model.cache
    cache.rollback(min(cache.length, context))
    held = cache.length
    if held < context:
        for array in () if keeps else cache.arrays:
            array[:, :, held:context] = 0
        cache.append([0] * (context - held))
