"""Errors that more than one room raises or handles. All are PocketspecError: one line for the user."""

from __future__ import annotations

from export.manifest import PocketspecError


class ContextFullError(PocketspecError, ValueError):
    """More tokens than the cache has rows, or than the context allows."""


class LogitsError(PocketspecError, ArithmeticError):
    """Logits from which no distribution can be made: not a number, or infinite."""


class DraftError(PocketspecError, ArithmeticError):
    """A drafter whose model returned invalid logits; ``drafter`` is its name. Decoding continues without it."""

    def __init__(self, drafter: str, reason: LogitsError) -> None:
        super().__init__(f"drafter {drafter}: {reason}")
        self.drafter = drafter


class UnsupportedModelError(PocketspecError, RuntimeError):
    """A graph that cannot be opened, or that lacks what the runtime needs of it."""
