"""What a way to decode is to the scheduler: what a step of it is expected to bring, and to cost.

The objective is tokens a second (Leviathan et al. 2023, section 3.4, with measured costs in place of constant ones).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from runtime.decode import Step
from runtime.draft import DraftLimit
from runtime.scheduler import Pick
from runtime.scheduler.acceptance import Acceptance
from runtime.scheduler.speeds import Speeds

# Rates this near to the best count as equal. A heuristic.
_NEARLY = 0.98


@dataclass(frozen=True)
class Forecast:
    """One way to take the next step: the ``tokens`` it is expected to commit in so many ``seconds``.

    ``draft_seconds`` of them are the drafter's, without correction by what was seen, for ``drafted`` tokens (0: they do
    not hang on that). ``node_seconds``: what a node costs on average, where the drafter can tell for every draft how
    many are worth it (0: it cannot). ``family`` is who made it.
    """

    pick: Pick
    family: str
    tokens: float
    seconds: float
    draft_seconds: float = 0.0
    drafted: float = 0.0
    node_seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Expected tokens a second."""
        return self.tokens / self.seconds


@dataclass(frozen=True)
class Room:
    """What a draft may have: so many nodes, and whether trees are judged here."""

    nodes: int
    trees: bool


class Family(Protocol):
    """One ``drafter`` (None: nobody drafts) with one kind of drafts.

    ``levels`` are the models it runs, ``acceptances`` what it learns from, some of them shared with other families.
    """

    name: str
    drafter: str | None
    levels: tuple[str, ...]
    acceptances: tuple[Acceptance, ...]

    def limits(self, room: Room) -> Iterable[DraftLimit]:
        """The drafts that are worth weighing."""
        ...

    def forecast(self, limit: DraftLimit, speeds: Speeds) -> Forecast:
        """What a step with such a draft is expected to be."""
        ...

    def observe(self, step: Step) -> None:
        """Learns from a step that this family drafted."""
        ...


def best_forecast(family: Family, speeds: Speeds, room: Room) -> Forecast | None:
    """The smallest of a family's drafts that are about as fast as any; None if there is no room for one.

    A long draft that is hardly faster bets more on chances that may be other ones behind the next few words.
    """
    forecasts = [family.forecast(limit, speeds) for limit in family.limits(room)]
    enough = _NEARLY * max((forecast.rate for forecast in forecasts), default=0.0)
    fast = (forecast for forecast in forecasts if forecast.rate >= enough)
    return min(fast, key=lambda forecast: forecast.pick.limit.nodes, default=None)
