"""Watches memory while an engine runs: the process's use against the plan, and what the system has left.

If the system runs short, the engine is asked to use less; when there is room again, it takes back what it gave up. The
watcher's thread checks once a second, which costs a fraction of a millisecond.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from memory.device import Device
from memory.meter import Memory
from memory.plan import OverBudgetError, Plan

# The system is short if less than this is available: what a desktop needs to stay responsive.
_LOW_BYTES = 100 << 20
_LOW_SHARE = 0.02
# Consecutive checks that must find room before anything grows back.
_PATIENCE = 5


class Budgeted(Protocol):
    """What is watched: an engine."""

    @property
    def plan(self) -> Plan: ...

    def replan(self, budget_bytes: int) -> None: ...


@dataclass(frozen=True)
class Reading:
    """One reading: this process's memory (None where the system does not tell) and the device."""

    own: Memory | None
    device: Device


def _low_bytes(device: Device) -> int:
    """The bytes that must stay available; in a container, half of what plans leave free."""
    if device.container_bytes is not None:
        return device.margin_bytes // 2
    return max(_LOW_BYTES, int(device.total_bytes * _LOW_SHARE))


class Watcher:
    """Keeps ``engine`` within the system's memory. ``look`` reads it; ``notify`` gets a line about each change.

    It does not keep the engine alive. An error in a check is reported once, and checks continue.
    """

    def __init__(self, engine: Budgeted, look: Callable[[], Reading], notify: Callable[[str], None]) -> None:
        self._engine, self._look, self._notify = weakref.ref(engine), look, notify
        self._wanted = engine.plan.budget_bytes
        self._calm = 0
        self._excess_reported = self._failure_reported = self._tolerant = False
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, seconds: float = 1.0) -> None:
        """Starts to check at regular intervals."""
        self._thread = threading.Thread(target=self._run, args=(seconds,), name="pocketspec-watcher", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops checking, and waits for a check in progress, unless called from within it."""
        self._stopped.set()
        if self._thread not in (None, threading.current_thread()):
            self._thread.join()

    @contextmanager
    def tolerant(self) -> Iterator[None]:
        """A context in which this process may take more than planned for a moment, because it measures."""
        self._tolerant = True
        try:
            yield
        finally:
            self._tolerant = False

    def want(self, budget_bytes: int) -> None:
        """Sets the budget to grow back to, when the application sets another one."""
        self._wanted = budget_bytes

    def check(self) -> bool:
        """One check and its consequences; False if the engine is gone."""
        engine, reading = self._engine(), self._look()
        if engine is None:
            return False
        self._compare(engine.plan, reading.own)
        short = _low_bytes(reading.device) - reading.device.available_bytes
        if short > 0:
            self._calm = 0
            self._shrink(engine, short)
        else:
            self._calm += 1
            given_up = self._wanted - engine.plan.budget_bytes
            if self._calm >= _PATIENCE and given_up > 0:
                self._grow(engine, -short)
        return True

    def _run(self, seconds: float) -> None:
        while not self._stopped.wait(seconds):
            try:
                if not self.check():
                    return
            except Exception as error:  # of the system's files, planning, or ``notify``: none may end the watcher
                if not self._stopped.is_set():
                    self._report_failure(error)

    def _report_failure(self, error: Exception) -> None:
        if self._failure_reported:
            return
        self._failure_reported = True
        with suppress(Exception):
            reason = f"{type(error).__name__}: {error}"
            self._notify(f"memory could not be watched just now ({reason}); going on, and trying again every second")

    def _compare(self, plan: Plan, own: Memory | None) -> None:
        if (
            own is None
            or self._excess_reported
            or self._tolerant
            or own.anonymous_bytes <= plan.anonymous_bytes + plan.margin_bytes
        ):
            return
        self._excess_reported = True
        self._notify(
            f"this process has {own.anonymous_bytes:,} bytes of anonymous memory, and the plan says"
            f" {plan.anonymous_bytes:,} and a margin of {plan.margin_bytes:,}: what else runs in it is not in the plan"
        )

    def _shrink(self, engine: Budgeted, short: int) -> None:
        """Changes to a plan with at least ``short`` bytes less, or else to the leanest plan."""
        needed = engine.plan.needed_bytes
        budget = needed - short
        try:
            engine.replan(budget)
        except OverBudgetError as error:
            budget = error.smallest_bytes
            if budget >= needed:
                return
            engine.replan(budget)
        self._notify(
            f"the system is short of {short:,} bytes of memory: going on within {budget:,} instead of {needed:,};"
            " the text stays the same"
        )

    def _grow(self, engine: Budgeted, room: int) -> None:
        """Takes back what fits into ``room`` bytes, at most half of that, or it might have to be given up at once."""
        self._calm = 0
        before = engine.plan
        budget = min(self._wanted, before.needed_bytes + room // 2)
        engine.replan(budget)
        if engine.plan != before:
            self._notify(f"there is memory again: going on within {budget:,} bytes")
