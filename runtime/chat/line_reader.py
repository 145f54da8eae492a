"""Reads what the user says, line by line, and what every reader must do."""

from __future__ import annotations

import sys
from typing import Protocol

from runtime.text.tokenizer import TokenizerError

PROMPT = "> "


class LineReader(Protocol):
    """``is_interactive``: somebody is there who can read an error and go on.

    ``memory_bytes``: the anonymous memory that it takes, for the plan.
    """

    is_interactive: bool
    memory_bytes: int

    def read(self, status: str, draft: str = "") -> str | None:
        """The next text of the user; None at the end. TokenizerError if it is none.

        ``status`` is shown meanwhile, and ``draft`` is there to be edited, where that is possible.
        """
        ...


class PlainReader:
    """Reads standard input line by line. The prompt mark goes to standard error, with the notes."""

    memory_bytes = 0

    def __init__(self) -> None:
        self.is_interactive = sys.stdin.isatty()

    def read(self, status: str, draft: str = "") -> str | None:
        """See ``LineReader``. At a terminal Ctrl-C drops the line."""
        while True:
            print(PROMPT, end="", file=sys.stderr, flush=True)
            try:
                line = sys.stdin.readline()
            except KeyboardInterrupt:
                if not self.is_interactive:
                    raise
                print(file=sys.stderr)
                continue
            return as_text(line.removesuffix("\n"), sys.stdin.encoding) if line else None


def as_text(line: str, encoding: str | None) -> str:
    """A line whose undecodable bytes are lone surrogates (PEP 383): unchanged, or decoded as UTF-8 if it is that."""
    if not any("\ud800" <= character <= "\udfff" for character in line):
        return line
    try:
        return line.encode(encoding or "utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        raise TokenizerError(f"this line is not {encoding} text, nor UTF-8") from None
