"""Chooses how many of its threads a model uses: fewer where that is faster, as it is beside other programs.

A thread that loses its core to another program holds up every operator of which it has begun a piece, and the others
wait. If there are more threads than free cores, waiting threads also take time from working ones. So fewer threads are
tried for a moment: at first use, when threads hold one another up, and when steps slow down. They are kept if steps of
the same kind get faster. More threads are tried again from time to time, less often the longer that does not pay.
Results do not depend on the number.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

# Stretches of steps this long are compared, since other programs get a core for 3 to 4 ms at a time (Linux 6.18).
_STRETCH_SECONDS = 0.03
_STRETCH_STEPS = 6
# The share of its time that a caller waits for others. Measured on two cores of a Zen 4 with one row a step at
# Qwen2-1.5B's shape: 0.02 to 0.03 alone, 0.21 beside one busy process, 0.09 beside two.
_HELD_UP = 0.06
# Steps that take this many times as long as usual start a trial.
_SLOWED = 1.15
# Fewer threads must save this share of the time, more threads that: stretches of one kind vary, and alone more threads
# are faster.
_GAIN_OF_FEWER, _GAIN_OF_MORE = 0.05, 0.02
# The parts of the workers that trials of fewer keep, one after another as long as they do not pay; at least one stays.
_PARTS = (0.75, 0.5, 0.25, 0.125, 0.0)
# Seconds of steps until the next trial: at first, and at most after trials that did not pay. Beside a busy process a
# trial of all threads takes up to four times as long as its stretch, so trials take at most 1 % of the time.
_FIRST_REST, _LONGEST_REST = 0.5, 8.0
# The usual time follows faster steps at once, and slower ones by this share with every stretch.
_FOLLOWS = 0.05


class Crew(Protocol):
    """The threads of a session: how many work, and how long they have waited for one another so far."""

    workers: int

    @property
    def held_up_seconds(self) -> float: ...


class WorkerChoice:
    """Chooses the workers of a crew from the time that steps take; as many as it has now are the most.

    If it is not ``eager``, because trials cost more than their steps, only threads that are held up start one.
    ``alone_first``: it begins with one worker and tries more after a while, for work that is too little for more.
    """

    def __init__(self, crew: Crew, eager: bool = True, alone_first: bool = False) -> None:
        self._crew, self._most, self._eager = crew, crew.workers, eager
        if alone_first:
            crew.workers = 1
        self._stretch = _Stretch(crew.held_up_seconds)
        # During a trial: the stretch to compare with, and the number of workers before.
        self._trial: tuple[_Stretch, int] | None = None
        self._rest, self._next_rest = _FIRST_REST if alone_first else 0.0, _FIRST_REST
        # Consecutive trials of fewer that did not pay. On many cores threads always wait a little; after such trials
        # more are tried next.
        self._fewer_failed = 0
        # Usual seconds of a step by kind, with the current number of workers; empty before the first trial.
        self._usual: dict[Hashable, float] = {}

    @property
    def workers(self) -> int:
        """The number chosen; a trial may use another one at the moment."""
        return self._crew.workers if self._trial is None else self._trial[1]

    def after(self, kind: Hashable, seconds: float) -> None:
        """Records one forward: its ``kind`` (forwards of one kind do the same work) and its seconds."""
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
        """Starts a trial if it is time: of fewer workers if there is a reason, else of more."""
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
        """Keeps the number tried if it paid; else returns to ``workers`` and waits longer until the next trial."""
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
    """Consecutive forwards, by kind."""

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
        """Mean seconds of a forward by kind."""
        return {kind: total / count for kind, (count, total) in self._kinds.items()}

    def time_beside(self, others: dict[Hashable, float]) -> float:
        """The time of these forwards as a multiple of their time elsewhere; 1 if no kind is known there."""
        both = [(count * others[kind], total) for kind, (count, total) in self._kinds.items() if kind in others]
        expected = sum(seconds for seconds, _ in both)
        return sum(seconds for _, seconds in both) / expected if expected > 0 else 1.0
