"""Colours by source: what a drafter proposed is shown in the colour of that drafter, what the target said in none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TextIO

from runtime.decoding.loop import TARGET
from runtime.decoding.text_chunks import TextPiece
from runtime.text.visible import visible

# "Select graphic rendition" of ECMA-48: cyan, yellow, magenta, green, blue, red. With more drafters they repeat.
_COLOURS = (36, 33, 35, 32, 34, 31)


def why_no_colours(stream: TextIO) -> str | None:
    """The reason why colours cannot be shown on ``stream``, None if they can; see no-color.org for NO_COLOR."""
    from rich.console import Console

    if not stream.isatty():
        return "text goes to no terminal"
    if os.environ.get("NO_COLOR"):
        return "NO_COLOR is set"
    if Console(file=stream).color_system in (None, "windows"):
        return "this terminal shows none"
    return None


class Colours:
    """Gives every source its colour, in the order in which they are first seen."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}

    def paint(self, pieces: Sequence[TextPiece]) -> str:
        """The text of ``pieces`` for a terminal, made visible."""
        return "".join(self._painted(visible(text), source) for text, source in pieces)

    def legend(self) -> str:
        """The names of the drafters seen so far, each in its colour; empty before the first."""
        return ", ".join(self._painted(visible(source), source) for source in self._codes)

    def _painted(self, text: str, source: str) -> str:
        if source == TARGET:
            return text
        code = self._codes.setdefault(source, _COLOURS[len(self._codes) % len(_COLOURS)])
        return f"\x1b[{code}m{text}\x1b[0m"
