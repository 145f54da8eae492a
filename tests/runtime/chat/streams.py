"""A stream that is a terminal, as far as a program can ask."""

from __future__ import annotations

import io


class TerminalStream(io.StringIO):
    """Text that was written to a terminal."""

    def isatty(self) -> bool:
        return True
