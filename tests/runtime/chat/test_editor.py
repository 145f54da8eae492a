"""Keys of the line editor, pressed by a program: several lines, pasted text, history and completion."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from runtime.chat.commands import COMMANDS
from runtime.chat.editor import CommandCompleter, Editor
from runtime.chat.readers import open_reader

CTRL_C, CTRL_D, CTRL_J, ENTER, ALT_ENTER, UP = "\x03", "\x04", "\x0a", "\r", "\x1b\r", "\x1b[A"
Type = Callable[..., str | None]


@pytest.fixture
def type_keys() -> Iterator[Type]:
    """What an editor reads when keys are pressed; it keeps no history unless there is a file for it."""
    with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=DummyOutput()):

        def read(keys: str, draft: str = "", history: Path | None = None) -> str | None:
            keyboard.send_text(keys)
            return Editor(history, lambda line: None).read("", draft)

        yield read


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ("one" + ENTER, "one"),
        ("one" + CTRL_J + "two" + ALT_ENTER + ALT_ENTER + "three" + ENTER, "one\ntwo\n\nthree"),
        ("\x1b[200~one\r\ntwo\nthree\x1b[201~!" + ENTER, "one\ntwo\nthree!"),
        ("one" + CTRL_C + "two" + ENTER, "two"),
        ("a" + CTRL_J + "b" + CTRL_C + CTRL_D, None),
        ("one" + CTRL_D + ENTER, "one"),
        (CTRL_D, None),
        ("zwölf 日" + ENTER, "zwölf 日"),
        ("\x1b[200~\x1b]0;x\x07\x1b[201~" + ENTER, "\x1b]0;x\x07"),
    ],
)
def test_keys(type_keys: Type, keys: str, text: str | None) -> None:
    assert type_keys(keys) == text


def test_a_draft_is_there_to_be_edited(type_keys: Type) -> None:
    assert type_keys("!" + ENTER, "one\ntwo") == "one\ntwo!"


def test_what_was_typed_comes_back_the_next_time(type_keys: Type, tmp_path: Path) -> None:
    file = tmp_path / "state" / "chat_history"
    assert type_keys("one" + CTRL_J + "two" + ENTER, history=file) == "one\ntwo"
    assert type_keys(UP + UP + "!" + ENTER, history=file) in ("!one\ntwo", "one!\ntwo", "one\ntwo!")


def test_a_history_that_cannot_be_kept_is_said_once(type_keys: Type, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    notes: list[str] = []
    Editor(tmp_path / "file" / "chat_history", notes.append)
    assert len(notes) == 1
    assert notes[0].startswith("what you type is not kept: cannot open ")


def completions(text: str) -> list[str]:
    return [found.text for found in CommandCompleter(COMMANDS).get_completions(Document(text), CompleteEvent())]


def test_names_of_commands_are_completed() -> None:
    assert completions("/") == list(COMMANDS)
    assert completions("/re") == ["regenerate"]
    assert completions("/undo ") == completions("hello /") == completions("//") == completions("") == []


def test_there_is_no_editor_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert not open_reader(None, lambda line: None).is_interactive
