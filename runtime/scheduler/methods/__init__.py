"""Decoding methods: a drafter with drafts of one shape, and what a step of it brings and costs. One method a file.

May be imported: ``DecodingMethod`` and ``forecasts_of``; ``scheduler.available`` makes the methods of a bundle.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from memory.plan import Shape
from runtime.decoding.draft import DraftLimit, Step
from runtime.scheduler.acceptance_stats import AcceptanceStats
from runtime.scheduler.forecast import Forecast, Room
from runtime.scheduler.latency import LatencyEstimates


class DecodingMethod(Protocol):
    """One ``drafter`` (None: plain decoding) with drafts of one ``shape``.

    ``levels`` are the models it runs. ``acceptances`` are the statistics it learns; methods may share them.
    """

    name: str
    shape: Shape
    drafter: str | None
    levels: tuple[str, ...]
    acceptances: tuple[AcceptanceStats, ...]

    def limits(self, room: Room) -> Iterable[DraftLimit]:
        """The drafts that are worth a forecast."""
        ...

    def forecast(self, limit: DraftLimit, latency: LatencyEstimates) -> Forecast:
        """The forecast of a step with such a draft."""
        ...

    def observe(self, step: Step) -> None:
        """Learns from a step of this method."""
        ...


def forecasts_of(method: DecodingMethod, latency: LatencyEstimates, room: Room) -> list[Forecast]:
    """The forecasts of all drafts that are worth one."""
    return [method.forecast(limit, latency) for limit in method.limits(room)]
