"""The loop of a conversation: read a text, run the command or answer, until the user ends it."""

from __future__ import annotations

from export.manifest import PocketspecError
from memory.streams import OutputError
from runtime.chat.chat import Chat
from runtime.chat.commands import MARK, is_command, run_command
from runtime.text.tokenizer import TokenizerError
from runtime.turns import ClosedError


def run(chat: Chat) -> None:
    """Talks until the user ends it.

    A user at a terminal reads of errors and goes on. From a pipe, a line that is no text is left out, and any other
    error is raised.
    """
    if chat.reader.is_interactive:
        chat.presenter.lines([f"{MARK}help shows what else can be done; Ctrl-D ends"])
    while not chat.is_over:
        try:
            text = chat.read()
            if text is None:
                return
            _take(chat, text)
        except TokenizerError as error:
            chat.presenter.note(f"{error}; this line was not said, and the conversation goes on")
        except (OutputError, ClosedError):
            raise
        except PocketspecError as error:
            if not chat.reader.is_interactive:
                raise
            chat.presenter.error(error)


def _take(chat: Chat, text: str) -> None:
    if is_command(text):
        run_command(chat, text)
    elif text.strip():
        chat.answer(chat.conversation.say(text.removeprefix(MARK) if text.startswith(MARK) else text))
