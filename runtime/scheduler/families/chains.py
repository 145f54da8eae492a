"""Chains of a drafter model: one forward of it for every token."""

from __future__ import annotations

from collections.abc import Iterator

from memory.expected import chain_tokens
from runtime.decode import Step
from runtime.draft import DraftLimit, chain_limit
from runtime.scheduler import Pick
from runtime.scheduler.acceptance import Acceptance
from runtime.scheduler.speeds import Speeds
from runtime.scheduler.ways import Forecast, Room


class Chains:
    """Of the level called ``drafter``, accepted as ``acceptance`` tells."""

    def __init__(self, drafter: str, acceptance: Acceptance) -> None:
        self.name = f"{drafter}-chain"
        self.levels: tuple[str, ...] = (drafter,)
        self._drafter, self._acceptance = drafter, acceptance

    def limits(self, room: Room) -> Iterator[DraftLimit]:
        """See ``Family``: every length."""
        return map(chain_limit, range(1, room.nodes + 1))

    def forecast(self, limit: DraftLimit, speeds: Speeds) -> Forecast:
        """See ``Family``."""
        length = limit.depth
        drafting = length * (speeds.forward(self._drafter, 1) + speeds.costs.node_seconds["chain"])
        seconds = speeds.target(1 + length) + drafting * speeds.correction(self.name) + speeds.around("chain", 0)
        tokens = chain_tokens(self._acceptance.chances(length))
        return Forecast(Pick(self._drafter, limit), self.name, tokens, seconds, drafting, length)

    def observe(self, step: Step) -> None:
        """See ``Family``."""
        self._acceptance.observe(step.num_accepted, step.num_drafted)
