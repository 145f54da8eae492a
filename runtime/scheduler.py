"""Which drafter guesses next, and how much."""

from __future__ import annotations

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
