"""The commands of a conversation: lines that begin with a slash. A new one is an entry of ``COMMANDS``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from export.manifest import PocketspecError
from export.untrusted import UntrustedError
from memory.device import read_device
from memory.report import given_up_lines
from memory.size import MemoryShare, parse_size, show_bytes
from runtime.chat.chat import Chat
from runtime.chat.colouring import Colours, why_no_colours
from runtime.chat.status import status_line
from runtime.conversation import Conversation
from runtime.sessions.record import parse_metadata
from runtime.sessions.tensor_file import open_tensors
from runtime.text.visible import visible_line

MARK = "/"
# Kinds of arguments, as help shows them.
NONE, TEXT, FILE, SIZE = "", "TEXT", "FILE", "SIZE"
_NOTHING = '""'


class CommandError(PocketspecError, ValueError):
    """A command that does not exist, or an argument that it does not take."""


@dataclass(frozen=True)
class Command:
    """One command. ``run`` gets the text behind the name, which is empty if ``argument`` is ``NONE``."""

    name: str
    argument: str
    purpose: str
    run: Callable[[Chat, str], None]


def is_command(text: str) -> bool:
    """Whether ``text`` is a command; two slashes begin a text with one."""
    return text.startswith(MARK) and not text.startswith(MARK * 2)


def run_command(chat: Chat, text: str) -> None:
    """Runs the command in ``text``; CommandError if there is none of that name."""
    name, _, argument = text.removeprefix(MARK).strip().partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        raise _unknown(name)
    argument = argument.strip()
    if argument and command.argument == NONE:
        raise CommandError(f"{MARK}{name} takes nothing behind it; write {MARK}{name}")
    command.run(chat, argument)


def _unknown(name: str) -> CommandError:
    close = get_close_matches(name, COMMANDS, n=1)
    meant = f"; {MARK}{close[0]} is one" if close else ""
    return CommandError(
        f"no command {visible_line(MARK + name)}{meant}; {MARK}help lists them, and a text that begins with {MARK} is"
        f" said with {MARK * 2}"
    )


def _undo(chat: Chat, _: str) -> None:
    chat.presenter.lines([f"taken back: {visible_line(str(chat.conversation.undo()['content']))}"])


def _regenerate(chat: Chat, _: str) -> None:
    answer = chat.conversation.regenerate()
    if not chat.conversation.samples:
        chat.presenter.note("answers are greedy, so this is the same text again; --temperature draws others")
    chat.answer(answer)


def _edit(chat: Chat, text: str) -> None:
    written = text or chat.read(str(chat.conversation.question["content"]))
    if written and written.strip():
        chat.answer(chat.conversation.edit(written))
    else:
        chat.presenter.lines(["nothing was changed"])


def _system(chat: Chat, text: str) -> None:
    if text:
        chat.conversation.change_system(None if text == _NOTHING else text)
    system = chat.conversation.system
    chat.presenter.lines(["there is no system message" if system is None else f"system message: {system}"])


def _save(chat: Chat, text: str) -> None:
    path = _file(text, "save")
    _require_session_or_nothing(path)
    chat.conversation.save(path)
    chat.presenter.lines([f"saved to {path}; {MARK}load goes on with it"])


def _load(chat: Chat, text: str) -> None:
    path, note = _file(text, "load"), chat.presenter.note
    own = {"speculation": chat.speculation, "constraint": chat.constraint}  # as on the command line
    restored = Conversation.restore(chat.engine, path, reread=True, notify=note, **own)
    chat.conversation, chat.stats = restored, None
    messages = restored.messages
    latest = visible_line(str(messages[-1].get("content"))) if messages else "nothing was said yet"
    chat.presenter.lines([f"{len(messages)} messages of {path}; the latest: {latest}"])


def _file(text: str, name: str) -> Path:
    if not text:
        raise CommandError(f"{MARK}{name} needs the name of a file; write {MARK}{name} {FILE}")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise CommandError(f"{text}: there is no such user; write the whole path") from None


def _require_session_or_nothing(path: Path) -> None:
    """CommandError if another kind of file is at ``path``: it would be lost."""
    if not path.exists():
        return
    try:
        with open_tensors(path) as file:
            parse_metadata(file.metadata)
    except UntrustedError:
        raise CommandError(f"{path} is there and holds no conversation; choose another name") from None


def _stats(chat: Chat, _: str) -> None:
    lines = [] if chat.stats is None else [chat.stats.line()]
    chat.presenter.lines([*lines, status_line(chat.engine, chat.stats)])


def _budget(chat: Chat, text: str) -> None:
    if text:
        size = parse_size(text)
        chat.engine.set_budget(size.of(read_device().attainable_bytes) if isinstance(size, MemoryShare) else size)
    plan = chat.engine.plan
    needed = f"the plan takes {show_bytes(plan.needed_bytes)} of a budget of {show_bytes(plan.budget_bytes)}"
    chat.presenter.lines([needed, *given_up_lines(plan)])


def _explain(chat: Chat, _: str) -> None:
    chat.explain()


def _color(chat: Chat, _: str) -> None:
    if chat.presenter.colours is not None:
        chat.presenter.colours = None
        chat.presenter.lines(["answers are shown in one colour"])
        return
    use_colours(chat)
    chat.presenter.lines(["drafted tokens are shown in the colour of the level that proposed them"])


def use_colours(chat: Chat) -> None:
    """Shows drafted tokens in colour from now on; CommandError where that is impossible."""
    if reason := why_no_colours(chat.presenter.output):
        raise CommandError(f"drafted tokens cannot be shown in colour: {reason}")
    chat.presenter.colours = Colours()


def _help(chat: Chat, _: str) -> None:
    usages = [f"{MARK}{command.name} {command.argument}".rstrip() for command in COMMANDS.values()]
    width = max(map(len, usages))
    lines = [f"{usage:{width}}  {command.purpose}" for usage, command in zip(usages, COMMANDS.values(), strict=True)]
    chat.presenter.lines([*lines, _KEYS])


def _quit(chat: Chat, _: str) -> None:
    chat.is_over = True


_KEYS = (
    "Enter sends; Alt-Enter or Ctrl-J begins another line; Ctrl-C stops an answer or drops what was written;"
    " Ctrl-D ends"
)
_ALL = (
    Command("undo", NONE, "take back the latest message and its answer", _undo),
    Command(
        "regenerate", NONE, "answer the latest message again: another draw, or the same text if greedy", _regenerate
    ),
    Command("edit", TEXT, "answer TEXT in place of the latest message; alone: edit that message", _edit),
    Command("system", TEXT, f"talk on under another system message; {_NOTHING}: none; alone: show it", _system),
    Command("save", FILE, "keep the conversation in FILE", _save),
    Command("load", FILE, "go on with the conversation in FILE, which is not read again", _load),
    Command("stats", NONE, "statistics of the latest answer, context and memory", _stats),
    Command(
        "budget", SIZE, "use at most SIZE of memory from now on, as in 800MB or 60%; alone: show the plan's", _budget
    ),
    Command("explain", NONE, "tokens/s expected and realised of every way to decode", _explain),
    Command("color", NONE, "show drafted tokens in the colour of the level that proposed them, or stop that", _color),
    Command("help", NONE, "this list", _help),
    Command("quit", NONE, "end the conversation, as Ctrl-D does", _quit),
)
COMMANDS = {command.name: command for command in _ALL}
