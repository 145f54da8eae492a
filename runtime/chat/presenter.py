"""Shows a conversation: answers on one stream, everything about them on another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TextIO

from runtime.chat.colouring import Colours
from runtime.decoding.text_chunks import TextPiece
from runtime.text.visible import visible


class Presenter:
    """Writes answers to ``output`` and lines about them to ``notes``.

    A pipe gets an answer's text as it is. A terminal gets it made visible, and in ``colours`` if there are any.
    """

    def __init__(self, output: TextIO, notes: TextIO) -> None:
        self.output, self._notes = output, notes
        self._is_terminal = output.isatty()
        self._is_within_line = False
        self.colours: Colours | None = None

    def show(self, pieces: Sequence[TextPiece]) -> None:
        """Shows the next part of an answer at once."""
        if self.colours is not None:
            text = self.colours.paint(pieces)
        else:
            text = "".join(piece.text for piece in pieces)
            text = visible(text) if self._is_terminal else text
        self._write(text)

    def end(self) -> None:
        """Ends an answer."""
        self._write("\n")
        if self.colours is not None and (legend := self.colours.legend()):
            self._write(f"drafted by {legend}; the rest by the target\n")

    def note(self, line: str) -> None:
        """Shows a line that the user should read."""
        self.lines([f"note: {line}"])

    def error(self, error: Exception) -> None:
        """Shows an error in one line; the conversation goes on."""
        self.lines([f"error: {' '.join(str(error).split())}"])

    def lines(self, lines: Iterable[str]) -> None:
        """Shows lines about the conversation; on a terminal they interrupt the answer's line."""
        if self._is_terminal and self._is_within_line:
            self._write("\n")
        for line in lines:
            print(visible(line), file=self._notes, flush=True)

    def _write(self, text: str) -> None:
        self.output.write(text)
        self.output.flush()
        self._is_within_line = not text.endswith("\n") if text else self._is_within_line
