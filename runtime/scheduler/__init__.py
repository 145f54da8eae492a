"""Which drafter guesses next, and how much: one policy per file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from runtime.decoding.draft import DraftLimit

if TYPE_CHECKING:
    from runtime.decoding.loop import Step

NOTHING = DraftLimit(0, 0)
PLAIN_NAME = "plain"


@dataclass(frozen=True)
class Pick:
    """The drafter for the next step, None for plain decoding, and the largest draft that is wanted of it."""

    drafter: str | None
    limit: DraftLimit = NOTHING

    @property
    def name(self) -> str:
        """As a bench calls its contenders: plain, NAME-chain3, NAME-tree7x3, LOWER>MIDDLE-chain6/tree8x3."""
        return PLAIN_NAME if self.drafter is None else f"{self.drafter}-{limit_name(self.limit)}"


def limit_name(limit: DraftLimit) -> str:
    """A limit as names of picks have it; that of the level below follows a slash."""
    size = f"{limit.nodes}" if limit.shape == "chain" else f"{limit.nodes}x{limit.depth}"
    below = f"/{limit_name(limit.inner)}" if limit.inner is not None else ""
    return f"{limit.shape}{size}{below}"


class Scheduler(Protocol):
    """One policy. It sees every step, and nothing else of the conversation."""

    def pick(self, last: Step | None) -> Pick:
        """The pick for the next step; ``last`` is the one before it, None at the start of an answer."""
        ...
