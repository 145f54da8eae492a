"""Chains drafted while the target verifies the one before, on compute units apart (``runtime.drafters.ahead``)."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from memory.expected import chain_tokens
from runtime.decode import Step
from runtime.draft import DraftLimit, chain_limit
from runtime.scheduler import Pick
from runtime.scheduler.acceptance import Acceptance
from runtime.scheduler.speeds import Speeds
from runtime.scheduler.ways import Forecast, Room


class Overlaps:
    """Of the drafter called ``drafter``, which runs the level ``below`` ahead, accepted as ``acceptance`` tells."""

    def __init__(self, drafter: str, below: str, acceptance: Acceptance) -> None:
        self.name = f"{drafter}-chain"
        self.drafter: str | None = drafter
        self.levels: tuple[str, ...] = (below,)
        self._below, self._acceptance = below, acceptance

    def limits(self, room: Room) -> Iterator[DraftLimit]:
        """See ``Family``: every length."""
        return map(chain_limit, range(1, room.nodes + 1))

    def forecast(self, limit: DraftLimit, speeds: Speeds) -> Forecast:
        """See ``Family``: the mean over steps with a draft that was ready and steps without one.

        A step without a draft is followed by one with a draft if the first token drafted meanwhile was right; one with
        a draft, if all of it was, and the target's own token was foreseen, too.
        """
        length = limit.depth
        chances = self._acceptance.chances(length + 1)
        drafting = (length + 1) * (speeds.forward(self._below, 1) + speeds.costs.node_seconds["chain"])
        with_draft = max(speeds.target(1 + length), drafting)
        without = max(speeds.target(1), drafting)
        share = chances[0] / (chances[0] + 1 - prod(chances)) if chances[0] > 0 else 0.0
        tokens = share * chain_tokens(chances[:length]) + (1 - share)
        seconds = share * with_draft + (1 - share) * without + speeds.around("chain", share * length)
        return Forecast(Pick(self.drafter, limit), self.name, tokens, seconds)

    def observe(self, step: Step) -> None:
        """See ``Family``."""
        if step.num_drafted:
            self._acceptance.observe(step.num_accepted, step.num_drafted)
