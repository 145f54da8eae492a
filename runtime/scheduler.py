"""Which drafter guesses next, and how much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from runtime.draft import DraftLimit

if TYPE_CHECKING:
    from runtime.decode import Step


NOTHING = DraftLimit(0, 0)


@dataclass(frozen=True)
class Pick:
    """The drafter for the next step, None for plain decoding, and the largest draft that is wanted of it."""

    drafter: str | None
    limit: DraftLimit = NOTHING


class Scheduler(Protocol):
    """One policy. It sees every step, and nothing else of the conversation."""

    def pick(self, last: Step | None) -> Pick:
        """The pick for the next step; ``last`` is the one before it, None at the start of an answer."""
        ...


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
        nodes = 0 if pick.drafter is None else min(pick.limit.nodes, self._most(pick.drafter))
        return Pick(pick.drafter, DraftLimit(nodes, min(pick.limit.depth, nodes))) if nodes else Pick(None)
