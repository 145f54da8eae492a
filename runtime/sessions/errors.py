"""Why a session cannot be kept or taken up again. All are PocketspecError: one line for the user."""

from __future__ import annotations

from export.manifest import PocketspecError


class SessionError(PocketspecError, ValueError):
    """A session that cannot be saved, or a file that is none, is damaged, or is of a newer version."""


class OtherSessionError(SessionError):
    """A sound session whose rows this engine cannot use: of another model, KV type, kernels, or a larger plan.

    ``reason`` says which. Its tokens may still be read again.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason
