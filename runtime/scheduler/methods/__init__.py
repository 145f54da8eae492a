"""The decoding methods there are, one a file: a drafter with one kind of drafts, and what a step of it brings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from memory.plan import Shape
from runtime.decoding.draft import DraftLimit, Step
from runtime.scheduler.acceptance_stats import Acceptance
from runtime.scheduler.forecast import Forecast, Room
from runtime.scheduler.latency import Speeds


class Family(Protocol):
    """One ``drafter`` (None: nobody drafts) with drafts of one ``shape``.

    ``levels`` are the models it runs, ``acceptances`` what it learns from, some of them shared with other families.
    """

    name: str
    shape: Shape
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


def forecasts_of(family: Family, speeds: Speeds, room: Room) -> list[Forecast]:
    """Of all drafts that are worth weighing."""
    return [family.forecast(limit, speeds) for limit in family.limits(room)]
