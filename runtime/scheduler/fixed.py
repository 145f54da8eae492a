"""The same pick for every step, and picks kept within what the plan allows."""

from __future__ import annotations

from collections.abc import Callable

from runtime.decoding.draft import NOTHING, DraftLimit, Pick, Step
from runtime.decoding.protocols import Scheduler


class FixedScheduler:
    """The same pick for every step. Without a drafter it is plain decoding."""

    def __init__(self, drafter: str | None = None, limit: DraftLimit = NOTHING) -> None:
        self._pick = Pick(drafter, limit)

    def pick(self, last: Step | None) -> Pick:
        """See ``Scheduler``."""
        return self._pick


class PlannedScheduler:
    """Another scheduler's picks within what the plan allows at the moment, which may change between two steps.

    ``most`` says how many nodes a drafter may draft now, 0: it is not open.
    """

    def __init__(self, inner: Scheduler, most: Callable[[str], int]) -> None:
        self._inner, self._most = inner, most

    def pick(self, last: Step | None) -> Pick:
        """See ``Scheduler``."""
        pick = self._inner.pick(last)
        most = 0 if pick.drafter is None else self._most(pick.drafter)
        if most >= pick.limit.nodes:
            return pick
        return Pick(pick.drafter, pick.limit.within(most, most)) if most else Pick(None)
