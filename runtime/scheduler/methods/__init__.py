"""Decoding methods: a drafter with drafts of one shape, and what a step of it brings and costs. One method a file.

May be imported: ``DecodingMethod``; ``scheduler.available`` makes the methods of a bundle.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from memory.plan import Shape
from runtime.decoding.draft import PLAIN_NAME, DraftLimit, Step, chain_limit
from runtime.scheduler.acceptance_stats import AcceptanceStats
from runtime.scheduler.forecast import Forecast, Room
from runtime.scheduler.latency import LatencyEstimates


class DecodingMethod(ABC):
    """One ``drafter`` (None: plain decoding) with drafts of one ``shape``.

    ``levels`` are the models it runs. ``acceptances`` are the statistics it learns; methods may share them.
    """

    shape: Shape = "chain"

    def __init__(
        self, drafter: str | None = None, levels: Iterable[str] = (), acceptances: Iterable[AcceptanceStats] = ()
    ) -> None:
        self.name = PLAIN_NAME if drafter is None else f"{drafter}-{self.shape}"
        self.drafter, self.levels, self.acceptances = drafter, tuple(levels), tuple(acceptances)

    def limits(self, room: Room) -> Iterable[DraftLimit]:
        """The drafts that are worth a forecast: here, chains of every length."""
        return map(chain_limit, range(1, room.nodes + 1))

    @abstractmethod
    def forecast(self, limit: DraftLimit, latency: LatencyEstimates) -> Forecast:
        """The forecast of a step with such a draft."""

    @abstractmethod
    def observe(self, step: Step) -> None:
        """Learns from a step of this method."""
