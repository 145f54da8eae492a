"""Forecasts: what one step of a decoding method is expected to bring and to cost, and how to choose among them.

The objective is tokens a second (Leviathan et al. 2023, section 3.4, with measured costs in place of constant ones).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from runtime.decoding.draft import DraftLimit, Pick

# Rates this close count as equal: methods are not changed for less.
NEARLY = 0.98


class Forecast(NamedTuple):
    """One possible next step: it is expected to commit ``tokens`` in ``seconds``.

    ``draft_seconds`` of these are the drafter's, uncorrected, for ``drafted`` tokens (0: independent of their number).
    ``node_seconds`` is the average cost of one more node, where the drafter can stop early (0: it cannot). ``method``
    is the name of the decoding method.
    """

    method: str
    drafter: str | None
    limit: DraftLimit
    tokens: float
    seconds: float
    draft_seconds: float = 0.0
    drafted: float = 0.0
    node_seconds: float = 0.0

    @property
    def pick(self) -> Pick:
        """The pick for the decoding loop."""
        return Pick(self.drafter, self.limit)

    @property
    def rate(self) -> float:
        """Expected tokens a second."""
        return self.tokens / self.seconds


@dataclass(frozen=True)
class Room:
    """The largest draft that fits: ``nodes``, and whether the model that judges it takes trees."""

    nodes: int
    trees: bool


def fastest(forecasts: Sequence[Forecast]) -> Forecast | None:
    """The smallest draft among those about as fast as the fastest; None if there are none.

    A long draft that is hardly faster bets more on acceptance, which may change within a few words.
    """
    enough = NEARLY * max((forecast.rate for forecast in forecasts), default=0.0)
    fast = (forecast for forecast in forecasts if forecast.rate >= enough)
    return min(fast, key=lambda forecast: forecast.limit.nodes, default=None)
