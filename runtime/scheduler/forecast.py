"""What a way to decode is to the scheduler: what a step of it is expected to bring, and to cost.

The objective is tokens a second (Leviathan et al. 2023, section 3.4, with measured costs in place of constant ones).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from runtime.decoding.draft import DraftLimit, Pick

# Predictions this near to one another count as equal: ways are not changed, nor weighed again, for less. A heuristic.
NEARLY = 0.98


class Forecast(NamedTuple):
    """One way to take the next step: the ``tokens`` it is expected to commit in so many ``seconds``.

    ``draft_seconds`` of them are the drafter's, without correction by what was seen, for ``drafted`` tokens (0: they do
    not hang on that). ``node_seconds``: what a node costs on average, where the drafter can tell for every draft how
    many are worth it (0: it cannot). ``family`` is who made it.
    """

    family: str
    drafter: str | None
    limit: DraftLimit
    tokens: float
    seconds: float
    draft_seconds: float = 0.0
    drafted: float = 0.0
    node_seconds: float = 0.0

    @property
    def pick(self) -> Pick:
        """What the decoding loop is told."""
        return Pick(self.drafter, self.limit)

    @property
    def rate(self) -> float:
        """Expected tokens a second."""
        return self.tokens / self.seconds


@dataclass(frozen=True)
class Room:
    """What a draft may have: so many nodes, and whether trees are judged here."""

    nodes: int
    trees: bool


def fastest(forecasts: Sequence[Forecast]) -> Forecast | None:
    """The smallest of the drafts that are about as fast as any; None if there are none.

    A long draft that is hardly faster bets more on chances that may be other ones behind the next few words.
    """
    enough = NEARLY * max((forecast.rate for forecast in forecasts), default=0.0)
    fast = (forecast for forecast in forecasts if forecast.rate >= enough)
    return min(fast, key=lambda forecast: forecast.limit.nodes, default=None)
