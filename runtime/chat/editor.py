"""The line editor of a terminal: history, completion of commands, several lines, and pasted text. Needs prompt_toolkit.

Enter sends what was written; Alt-Enter and Ctrl-J begin another line, and so do line breaks of pasted text. Ctrl-C
drops what was written, Ctrl-D on an empty line ends.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.key_binding.key_processor import KeyPressEvent
from prompt_toolkit.patch_stdout import patch_stdout
from prompt_toolkit.styles import Style

from runtime.chat.commands import COMMANDS, FILE, MARK, Command
from runtime.chat.history_file import prepare
from runtime.chat.line_reader import PROMPT, as_text

_STYLE = Style.from_dict({"bottom-toolbar": "noreverse fg:ansibrightblack"})


class Editor:
    """A ``LineReader`` with a line editor; ``history`` is the file of its history, None to keep none."""

    is_interactive = True
    # Modules 9.2 MB, and 5.1 MB more within three texts (prompt_toolkit 3.0.53, Python 3.11, Linux x86-64).
    memory_bytes = 15_000_000

    def __init__(self, history: Path | None, note: Callable[[str], None]) -> None:
        self._status = ""
        self._session: PromptSession[str] = PromptSession(
            multiline=True,
            history=_open_history(history, note),
            completer=CommandCompleter(COMMANDS),
            key_bindings=_key_bindings(),
            bottom_toolbar=lambda: self._status,
            prompt_continuation=" " * len(PROMPT),
            style=_STYLE,
        )

    def read(self, status: str, draft: str = "") -> str | None:
        """See ``LineReader``. What other threads print meanwhile appears above the line."""
        self._status = status
        try:
            with patch_stdout():
                text = self._session.prompt(PROMPT, default=draft)
        except EOFError:
            return None
        return as_text(text, sys.stdin.encoding)


class CommandCompleter(Completer):
    """Completes the names of ``commands`` at the beginning of a text, and files behind those that take one."""

    def __init__(self, commands: Mapping[str, Command]) -> None:
        self._commands, self._files = commands, PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """See ``Completer``."""
        text = document.text_before_cursor
        if not text.startswith(MARK):
            return
        name, space, argument = text.removeprefix(MARK).partition(" ")
        if space:
            command = self._commands.get(name)
            if command is not None and command.argument == FILE:
                yield from self._files.get_completions(Document(argument), complete_event)
            return
        for command in self._commands.values():
            if command.name.startswith(name):
                shown = f"{MARK}{command.name} {command.argument}".rstrip()
                yield Completion(command.name, -len(name), display=shown, display_meta=command.purpose)


class _FileHistory(FileHistory):
    """A history in a file, which may be lost; the conversation is not."""

    def __init__(self, path: Path, note: Callable[[str], None]) -> None:
        super().__init__(path)
        self._note, self._failed = note, False

    def store_string(self, string: str) -> None:
        """See ``FileHistory``."""
        try:
            super().store_string(string.encode("utf-8", "replace").decode("utf-8"))
        except OSError as error:
            if not self._failed:
                self._note(f"what you type is not kept: cannot write {self.filename!s}: {error.strerror}")
            self._failed = True


def _open_history(path: Path | None, note: Callable[[str], None]) -> History:
    if path is None:
        return InMemoryHistory()
    try:
        prepare(path)
    except OSError as error:
        note(f"what you type is not kept: cannot open {path}: {error.strerror}")
        return InMemoryHistory()
    return _FileHistory(path, note)


def _key_bindings() -> KeyBindings:
    keys = KeyBindings()
    is_writing = has_focus(DEFAULT_BUFFER)

    @keys.add("enter", filter=is_writing)
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=is_writing)
    @keys.add("c-j", filter=is_writing)
    def begin_line(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @keys.add("c-c")
    @keys.add("<sigint>")
    def drop(event: KeyPressEvent) -> None:
        event.app.layout.focus(DEFAULT_BUFFER)
        event.app.current_buffer.reset()

    return keys
