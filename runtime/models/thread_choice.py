"""How many of its threads a model uses: fewer where that is faster, as it is while other programs are on the cores.

A thread whose core was given to another program holds up every operator that it has begun a piece of; the others wait.
And threads that wait take time from those that work, if there are more of them than cores to be had. So fewer threads
are tried for a moment at first use, whenever they hold one another up, and when steps slow down; they are kept if steps
of the same kind take less time. More are tried again now and then, less often the longer that does not pay. Results do
not depend on the number.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

# What is compared: a stretch of steps this long, since other programs get a core for 3 to 4 ms at a time (Linux 6.18).
_STRETCH_SECONDS = 0.03
_STRETCH_STEPS = 6
# The share of its time that a caller waits for others. On two cores of a Zen 4, one row a step: 0.02 to 0.03 alone at
# Qwen2-1.5B's shape, 0.21 beside one busy process, 0.09 beside two.
_HELD_UP = 0.06
# Steps that take so much longer than usual are looked into.
_SLOWED = 1.15
# Fewer threads must bring this much, more threads that: stretches of the same kind differ, and alone more are faster.
_GAIN_OF_FEWER, _GAIN_OF_MORE = 0.05, 0.02
# The part of the workers that stays in a trial of fewer; if that does not pay, the next one; at least one stays.
_PARTS = (0.75, 0.5, 0.25, 0.125, 0.0)
# Seconds of steps until the next trial: at first, and at most after trials that did not pay. A trial of all threads
# beside a busy process takes up to four times as long as its stretch: 1 % of the time at most.
_FIRST_REST, _LONGEST_REST = 0.5, 8.0
# What is usual follows faster steps at once, slower ones by this share with every stretch.
_FOLLOWS = 0.05


class Crew(Protocol):
    """Threads of a session: how many work, and how long they have waited for one another so far."""

    workers: int

    @property
    def held_up_seconds(self) -> float: ...


class WorkerChoice:
    """Chooses the workers of a crew by what steps take; as many as it has now are the most.

    Where trials cost more than their steps, it is not ``eager``: only threads that are held up are a reason for one.
    ``alone_first``: one worker begins, and more are tried after a while, as for work that is too little for more.
    """

    def __init__(self, crew: Crew, eager: bool = True, alone_first: bool = False) -> None:
        self._crew, self._most, self._eager = crew, crew.workers, eager
        if alone_first:
            crew.workers = 1
        self._stretch = _Stretch(crew.held_up_seconds)
        # While another number is tried: what it is compared with, and the number before.
        self._trial: tuple[_Stretch, int] | None = None
        self._rest, self._next_rest = _FIRST_REST if alone_first else 0.0, _FIRST_REST
        # Trials of fewer that have not paid, one after another. On many cores threads always wait a little; where that
        # has been looked into, more are tried next.
        self._fewer_failed = 0
        # Seconds of a step by kind with as many workers as now; empty: nothing was tried yet.
        self._usual: dict[Hashable, float] = {}

    @property
    def workers(self) -> int:
        """The number chosen; another one may just be tried."""
        return self._crew.workers if self._trial is None else self._trial[1]

    def after(self, kind: Hashable, seconds: float) -> None:
        """Told of every forward: its ``kind`` (those of one kind do the same work) and how long it took."""
        stretch = self._stretch
        stretch.add(kind, seconds)
        if stretch.seconds < _STRETCH_SECONDS or stretch.steps < _STRETCH_STEPS:
            return
        waited = self._crew.held_up_seconds
        if self._trial is None:
            self._look_at(stretch, (waited - stretch.held_up_before) / stretch.seconds)
        else:
            self._judge(stretch, *self._trial)
        self._stretch = _Stretch(waited)

    def _look_at(self, stretch: _Stretch, held_up: float) -> None:
        """Begins a trial if it is time for one: of fewer workers where there is a reason, else of more."""
        workers = self._crew.workers
        slow = self._eager and (not self._usual or stretch.time_beside(self._usual) > _SLOWED)
        troubled = slow or held_up > _HELD_UP
        self._learn(stretch)
        self._rest -= stretch.seconds
        if self._rest > 0:
            return
        if troubled and workers > 1 and not (self._fewer_failed and workers < self._most):
            part = _PARTS[self._fewer_failed % len(_PARTS)]
            self._try(stretch, max(int(workers * part), 1))
        elif workers < self._most:
            self._try(stretch, min(workers + max(workers // 3, 1), self._most))

    def _try(self, stretch: _Stretch, workers: int) -> None:
        self._trial = stretch, self._crew.workers
        self._crew.workers = workers

    def _judge(self, stretch: _Stretch, before: _Stretch, workers: int) -> None:
        """Keeps what was tried if it paid; else goes back to ``workers``, and waits longer until the next trial."""
        self._trial = None
        fewer = self._crew.workers < workers
        paid = stretch.time_beside(before.means()) < 1 - (_GAIN_OF_FEWER if fewer else _GAIN_OF_MORE)
        self._fewer_failed = self._fewer_failed + 1 if fewer and not paid else 0
        if paid:
            self._next_rest = _FIRST_REST
            self._usual = stretch.means()
        else:
            self._crew.workers = workers
        self._rest, self._next_rest = self._next_rest, min(self._next_rest * 2, _LONGEST_REST)

    def _learn(self, stretch: _Stretch) -> None:
        for kind, seconds in stretch.means().items():
            usual = self._usual.get(kind, seconds)
            self._usual[kind] = min(seconds, usual + (seconds - usual) * _FOLLOWS)


class _Stretch:
    """Forwards one after another, by kind."""

    def __init__(self, held_up_before: float) -> None:
        self.held_up_before = held_up_before
        self.seconds, self.steps = 0.0, 0
        self._kinds: dict[Hashable, tuple[int, float]] = {}

    def add(self, kind: Hashable, seconds: float) -> None:
        count, total = self._kinds.get(kind, (0, 0.0))
        self._kinds[kind] = count + 1, total + seconds
        self.seconds += seconds
        self.steps += 1

    def means(self) -> dict[Hashable, float]:
        """Seconds of a forward by kind."""
        return {kind: total / count for kind, (count, total) in self._kinds.items()}

    def time_beside(self, others: dict[Hashable, float]) -> float:
        """Seconds of these forwards for one that they took elsewhere; 1 where no kind is known there."""
        both = [(count * others[kind], total) for kind, (count, total) in self._kinds.items() if kind in others]
        expected = sum(seconds for seconds, _ in both)
        return sum(seconds for _, seconds in both) / expected if expected > 0 else 1.0
