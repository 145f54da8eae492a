"""What users can do in a conversation, typed by a script instead of a user."""

from __future__ import annotations

import io
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from export.manifest import PocketspecError
from memory import Request
from runtime.chat.chat import Chat
from runtime.chat.commands import COMMANDS, MARK, run_command
from runtime.chat.loop import run
from runtime.chat.presenter import Presenter
from runtime.constraints.request import Regex
from runtime.conversation import Conversation
from runtime.decoding.sampling import SamplingParams
from runtime.engine import Engine
from runtime.speculation.request import PLAIN, Speculation
from runtime.text.visible import visible_line
from tests.runtime.chat.streams import TerminalStream

SAMPLED = SamplingParams(temperature=1.5, seed=3)


class Script:
    """Reads prepared texts; ``drafts`` has what was there to be edited."""

    memory_bytes = 0

    def __init__(self, texts: Sequence[str], is_interactive: bool) -> None:
        self._texts, self.is_interactive = list(texts), is_interactive
        self.drafts: list[str] = []
        self.statuses: list[str] = []

    def read(self, status: str, draft: str = "") -> str | None:
        self.statuses.append(status)
        self.drafts.append(draft)
        return self._texts.pop(0) if self._texts else None


class Talk:
    """A conversation that was typed: what was said, shown, and told about it."""

    def __init__(
        self, engine: Engine, *texts: str, is_interactive: bool = True, sampling: SamplingParams | None = None
    ) -> None:
        self.output, self.notes = TerminalStream() if is_interactive else io.StringIO(), io.StringIO()
        self.script = Script(texts, is_interactive)
        settings = {"max_new_tokens": 12, "sampling": sampling or SamplingParams(), "speculation": PLAIN}
        conversation = Conversation(engine, **settings)
        self.chat = Chat(engine, conversation, self.script, Presenter(self.output, self.notes), PLAIN)
        run(self.chat)

    @property
    def said(self) -> list[tuple[str, str]]:
        return [(message["role"], message["content"]) for message in self.chat.conversation.messages]

    @property
    def answers(self) -> list[str]:
        return self.output.getvalue().split("\n")[:-1]

    @property
    def told(self) -> list[str]:
        return self.notes.getvalue().splitlines()[self.script.is_interactive :]


def test_texts_are_answered_and_empty_ones_are_not(engine: Engine) -> None:
    talk = Talk(engine, "one", "  \n ", "two\nlines")
    assert [said for role, said in talk.said if role == "user"] == ["one", "two\nlines"]
    assert talk.answers == [said for role, said in talk.said if role == "assistant"]
    assert talk.told == []


def test_two_slashes_say_one(engine: Engine) -> None:
    assert Talk(engine, "//undo it").said[0] == ("user", "/undo it")


def test_undo_takes_back_what_was_said(engine: Engine) -> None:
    talk = Talk(engine, "one", "two\x1b[2J", "/undo", "three")
    assert [said for role, said in talk.said if role == "user"] == ["one", "three"]
    assert talk.told == ["taken back: two␛[2J"]


def test_regenerate_says_that_greedy_answers_stay_the_same(engine: Engine) -> None:
    talk = Talk(engine, "one", "/regenerate")
    assert talk.answers[0] == talk.answers[1]
    assert talk.told == ["note: answers are greedy, so this is the same text again; --temperature draws others"]
    assert len(talk.said) == 2


def test_regenerate_draws_another_sampled_answer(engine: Engine) -> None:
    talk = Talk(engine, "one", "/regenerate", sampling=SAMPLED)
    assert talk.answers[0] != talk.answers[1]
    assert (talk.told, talk.said[-1][1]) == ([], talk.answers[1])


def test_edit_takes_the_text_behind_it_or_asks_for_it(engine: Engine) -> None:
    talk = Talk(engine, "one", "/edit two", "/edit", "three", "/edit", " ", "/edit")
    assert talk.said[0] == ("user", "three")
    assert talk.script.drafts == ["", "", "", "two", "", "three", "", "three", ""]
    assert talk.told == ["nothing was changed"] * 2


def test_system_messages_are_changed_shown_and_removed(engine: Engine) -> None:
    talk = Talk(engine, "/system", "/system Be kind.", "one", '/system ""', "/system")
    none = "there is no system message"
    assert talk.told == [none, "system message: Be kind.", none, none]
    assert talk.said[0] == ("user", "one")


def test_a_saved_conversation_goes_on_word_for_word(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "with space.session"
    talk = Talk(engine, "one", f"/save {file}", "two", sampling=SAMPLED)
    assert talk.told == [f"saved to {file}; /load goes on with it"]
    Talk(engine, "something else")
    again = Talk(engine, "lost", f"/load {file}", "two", "/regenerate")
    assert again.told == [f"2 messages of {file}; the latest: {visible_line(talk.answers[0])}"]
    assert again.said[:-1] == talk.said[:-1]
    assert again.answers[1] == talk.answers[1] != again.answers[2]


def test_a_constraint_holds_for_a_loaded_conversation(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "conversation.session"
    Talk(engine, "one", f"/save {file}")
    talk = Talk(engine)
    talk.chat.constraint = Regex("[0-9]{3}")
    run_command(talk.chat, f"/load {file}")
    talk.chat.answer(talk.chat.conversation.say("two"))
    assert talk.answers[-1].isdigit()


def test_files_that_are_no_sessions_are_neither_read_nor_lost(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    talk = Talk(engine, "one", f"/save {file}", f"/load {file}", f"/load {file}.x", "/save", "/load")
    assert talk.told[0] == f"error: {file} is there and holds no conversation; choose another name"
    assert talk.told[1].startswith(f"error: the session {file} ")
    assert talk.told[2:] == [
        f"error: there is no session {file}.x",
        "error: /save needs the name of a file; write /save FILE",
        "error: /load needs the name of a file; write /load FILE",
    ]
    assert file.read_text() == "mine"
    assert len(talk.said) == 2


def test_stats_show_the_latest_answer_and_the_status(engine: Engine) -> None:
    talk = Talk(engine, "/stats", "one", "/stats")
    before, line, status = talk.told
    assert before.startswith("context ")
    assert line.startswith("12 tokens in ")
    assert "tokens/s · context " in status
    assert talk.script.statuses[-1].startswith(status.partition("memory")[0])


def test_statistics_and_explanations_follow_every_answer_on_request(engine: Engine) -> None:
    talk = Talk(engine)
    talk.chat.shows_stats = talk.chat.explains = True
    talk.chat.answer(talk.chat.conversation.say("one"))
    assert talk.told[0].startswith("12 tokens in ")
    assert talk.told[1] == "note: nothing to explain: the way to decode was given, or there is only one"


def test_explain_shows_what_the_scheduler_knows(engine: Engine) -> None:
    list(engine.generate("Hello", max_new_tokens=8, speculation=Speculation()))
    talk = Talk(engine, "/explain")
    assert talk.told[0].split() == ["expected", "realised", "tokens"]
    assert {line.split()[0] for line in talk.told[1:]} >= {"plain", "suffix-chain"}


def test_the_budget_changes_the_plan_or_says_what_is_missing(random_bundle: Path) -> None:
    with Engine.open(random_bundle, Request(threads=1)) as own:
        talk = Talk(own, "/budget", "/budget 1KB", "/budget two", "/budget 200MB", "one")
        told = [line for line in talk.told if not line.startswith("given up")]
        assert told[0].startswith("the plan takes ")
        assert told[1].startswith("error: ")
        assert "1,000 bytes are " in told[1]
        assert told[2].startswith("error: 'two' is no size; write ")
        assert "of a budget of 200.0 MB" in told[3]
        assert own.plan.budget_bytes == 200_000_000
        assert len(talk.said) == 2


def test_colours_are_switched_on_and_off(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    talk = Talk(engine, "/color", "/color")
    assert talk.told[0] == "drafted tokens are shown in the colour of the level that proposed them"
    assert talk.told[1] == "answers are shown in one colour"
    monkeypatch.setenv("NO_COLOR", "1")
    talk = Talk(engine, "/color")
    assert talk.told == ["error: drafted tokens cannot be shown in colour: NO_COLOR is set"]
    assert talk.chat.presenter.colours is None


def test_help_names_every_command(engine: Engine) -> None:
    told = Talk(engine, "/help").told
    assert [line.split()[0] for line in told[:-1]] == [MARK + name for name in COMMANDS]


def test_quit_ends(engine: Engine) -> None:
    assert Talk(engine, "/quit", "one").said == []


REFUSED = [
    ("/undo", "nothing was said yet in this conversation"),
    ("/regenerate", "nothing was said yet in this conversation"),
    ("/edit x", "nothing was said yet in this conversation"),
    ("/undo it", "/undo takes nothing behind it; write /undo"),
    (
        "/regen",
        "no command /regen; /regenerate is one; /help lists them, and a text that begins with / is said with //",
    ),
    ("/", "no command /; /help lists them, and a text that begins with / is said with //"),
    ("/\x1b[2J\nx", "no command /␛[2J x; /help lists them, and a text that begins with / is said with //"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=[repr(text) for text, _ in REFUSED])
def test_refusals_are_one_line_and_the_conversation_goes_on(engine: Engine, text: str, message: str) -> None:
    talk = Talk(engine, text, "one")
    assert talk.told == [f"error: {message}"]
    assert len(talk.said) == 2
    with pytest.raises(PocketspecError, match=r"^no|^/undo"):
        Talk(engine, text, "one", is_interactive=False)


def test_a_conversation_that_is_full_can_be_cut(engine: Engine) -> None:
    talk = Talk(engine, "one", "x" * 600, "two")
    assert talk.told[0].startswith("error: the conversation of ")
    assert [said for role, said in talk.said if role == "user"] == ["one", "two"]


@pytest.mark.parametrize("tokens", [0, 3])
def test_an_interrupt_stops_the_answer_and_keeps_the_conversation(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    """In the middle of a step, as it comes: the step ends, and what was said stays."""
    forward, calls = type(engine.target).forward, []

    def interrupted(*arguments: object, **settings: object) -> object:
        calls.append(arguments)
        if len(calls) == tokens + 1:
            signal.raise_signal(signal.SIGINT)
        return forward(*arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(type(engine.target), "forward", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        talk = Talk(engine, "one", "two")
    finally:
        assert signal.signal(signal.SIGINT, before) is signal.default_int_handler
    stopped = "stopped; the conversation keeps the answer as far as it came"
    nothing = "stopped before the first token, so nothing was said"
    assert talk.told == [f"note: {stopped if tokens else nothing}"]
    assert [len(answer) for answer in talk.answers] == [tokens, 12]
    assert [said for role, said in talk.said if role == "user"] == (["one", "two"] if tokens else ["two"])
