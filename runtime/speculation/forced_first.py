"""Drafts what a constraint forces before anything else."""

from __future__ import annotations

from collections.abc import Callable

from runtime.decoding.context import Context
from runtime.decoding.draft import Pick, Step, chain_limit
from runtime.decoding.protocols import Scheduler
from runtime.drafters.registry import GRAMMAR


class ForcedFirst:
    """Picks forced tokens as the draft wherever there are some, and what ``inner`` picks elsewhere.

    ``inner`` sees its own steps alone: forced tokens are always accepted, and say nothing about other drafters.
    ``most`` are the nodes of a draft that the plan allows now.
    """

    def __init__(self, inner: Scheduler, context: Context, most: Callable[[], int]) -> None:
        self._inner, self._context, self._most = inner, context, most
        self._latest: Step | None = None

    def pick(self, last: Step | None) -> Pick:
        """See ``Scheduler``."""
        if last is not None and last.pick.drafter != GRAMMAR:
            self._latest = last
        constraint, most = self._context.constraint, self._most()
        if constraint is not None and most and constraint.forced():
            return Pick(GRAMMAR, chain_limit(most))
        return self._inner.pick(self._latest)
