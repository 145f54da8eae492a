"""What guesses ahead. A drafter is one new file with one class that satisfies ``Drafter``."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from export.manifest import PocketspecError
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DraftLimit
from runtime.decoding.sampling import LogitsError


class Drafter(Protocol):
    """Guesses what follows the committed tokens. No one tells it what became of its guesses.

    A drafter with state of its own compares it with ``context.tokens`` whenever it is asked, and keeps the common
    prefix; a rejected draft, a new turn and another conversation are all the same to it.
    """

    name: str

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        """A draft of at most ``limit`` that follows the last committed token; an empty one is fine.

        DraftError if its model is broken.
        """
        ...


class DraftError(PocketspecError, ArithmeticError):
    """A drafter whose model gives no numbers; ``drafter`` is its name. The text does not need it."""

    def __init__(self, drafter: str, reason: LogitsError) -> None:
        super().__init__(f"drafter {drafter}: {reason}")
        self.drafter = drafter


@runtime_checkable
class LooksAhead(Drafter, Protocol):
    """A drafter that works while the target does, in a thread of its own."""

    def look_ahead(self, context: Context, draft: Draft, limit: DraftLimit) -> None:
        """Begins the next draft, of at most ``limit``, as if all of ``draft`` were accepted; returns at once.

        The loop calls it before the target's forward, whatever was drafted; ``context`` may change afterwards.
        """
        ...

    def settle(self) -> None:
        """Waits until nothing goes on, and leaves no thread behind.

        To be called before its models are used otherwise, resized or closed. It can be used on afterwards.
        """
        ...
