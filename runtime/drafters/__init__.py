"""What guesses ahead. A drafter is one new file with one class that satisfies ``Drafter``."""

from __future__ import annotations

from typing import Protocol

from runtime.context import Context
from runtime.draft import Draft, DraftLimit


class Drafter(Protocol):
    """Guesses what follows the committed tokens. No one tells it what became of its guesses.

    A drafter with state of its own compares it with ``context.tokens`` whenever it is asked, and keeps the common
    prefix; a rejected draft, a new turn and another conversation are all the same to it.
    """

    name: str

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        """A draft of at most ``limit`` that follows the last committed token; an empty one is fine."""
        ...
