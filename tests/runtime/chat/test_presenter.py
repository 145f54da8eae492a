"""A pipe gets the text as it is; a terminal gets nothing that it would obey, and colours on request."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.chat.colouring import Colours, why_no_colours
from runtime.chat.presenter import Presenter
from runtime.decoding.text_chunks import TextPiece
from runtime.text.visible import visible
from tests.runtime.chat.streams import TerminalStream

SEQUENCE = re.compile(r"\x1b\[[0-9]+m")
pieces = st.lists(st.builds(TextPiece, st.text(st.characters()), st.sampled_from(["target", "near", "\x1b[2J", "far"])))


@given(pieces)
def test_a_terminal_obeys_nothing_of_a_text(shown: list[TextPiece]) -> None:
    output = TerminalStream()
    presenter = Presenter(output, io.StringIO())
    presenter.show(shown)
    plain = output.getvalue()
    assert plain == visible("".join(piece.text for piece in shown))
    presenter.colours = Colours()
    presenter.show(shown)
    assert SEQUENCE.sub("", output.getvalue()[len(plain) :]) == plain


def test_a_pipe_gets_the_text_as_it_is() -> None:
    output = io.StringIO()
    Presenter(output, io.StringIO()).show([TextPiece("a\x1b[2J\r", "near")])
    assert output.getvalue() == "a\x1b[2J\r"


def test_every_source_has_a_colour_of_its_own() -> None:
    colours = Colours()
    painted = colours.paint([TextPiece("a", "near"), TextPiece("b", "target"), TextPiece("c", "far")])
    assert painted == "\x1b[36ma\x1b[0mb\x1b[33mc\x1b[0m"
    assert colours.paint([TextPiece("d", "far"), TextPiece("e", "near")]) == "\x1b[33md\x1b[0m\x1b[36me\x1b[0m"
    assert colours.legend() == "\x1b[36mnear\x1b[0m, \x1b[33mfar\x1b[0m"


def test_the_colours_are_explained_where_they_are_seen() -> None:
    output, notes = TerminalStream(), io.StringIO()
    presenter = Presenter(output, notes)
    presenter.colours = Colours()
    presenter.show([TextPiece("a", "near")])
    presenter.end()
    assert output.getvalue().splitlines()[1] == "drafted by \x1b[36mnear\x1b[0m; the rest by the target"
    assert notes.getvalue() == ""


def test_notes_in_the_middle_of_an_answer_have_lines_of_their_own() -> None:
    terminal = TerminalStream()
    presenter = Presenter(terminal, terminal)
    presenter.show([TextPiece("one", "target")])
    presenter.note("memory\x07")
    presenter.show([TextPiece(" two", "target")])
    presenter.end()
    presenter.error(ValueError("a\nb"))
    assert terminal.getvalue() == "one\nnote: memory␇\n two\nerror: a b\n"


def test_colours_need_a_terminal_that_shows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert why_no_colours(TerminalStream()) is None
    assert why_no_colours(io.StringIO()) == "text goes to no terminal"
    monkeypatch.setenv("NO_COLOR", "1")
    assert why_no_colours(TerminalStream()) == "NO_COLOR is set"
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setenv("TERM", "dumb")
    assert why_no_colours(TerminalStream()) == "this terminal shows none"
