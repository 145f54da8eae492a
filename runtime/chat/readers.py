"""The choice of a reader: an editor where there is a terminal and the extra ``chat``, else line by line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from runtime.chat.line_reader import LineReader, PlainReader


def open_reader(history: Path | None, note: Callable[[str], None]) -> LineReader:
    """The best reader for standard input and output; ``history`` is the file of an editor's history, if any."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return PlainReader()
    if find_spec("prompt_toolkit") is None:
        note("line editing and history need the extra chat: pip install 'pocketspec[chat]'")
        return PlainReader()
    from runtime.chat.editor import Editor  # it needs the extra

    return Editor(history, note)
