"""A conversation: an engine answers message after message, and its KV cache keeps the turns before."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from export.manifest import PocketspecError
from export.untrusted import UntrustedError
from runtime.context_overflow import make_policy
from runtime.engine import Engine, TextChunk
from runtime.sessions.conversation_record import ConversationRecord, Overflow, keep_settings, parse_conversation
from runtime.sessions.errors import SessionError
from runtime.text.template_data import Message, make_inputs
from runtime.text.token_history import History, TokenizedTurns
from runtime.turns import Answer

_SEEDS = 1 << 64


class NoTurnError(PocketspecError, ValueError):
    """Nothing was said yet that could be taken back, edited or answered again."""


@dataclass(frozen=True)
class _ConversationState:
    """What a conversation knows beside its messages: the tokens of its turns, and how many are left out of it."""

    left_out: int
    turns: TokenizedTurns


@dataclass(frozen=True)
class _Turn:
    """A turn: the user's message, messages and state before it, and all messages when it was answered.

    ``attempt`` counts its answers, from 0.
    """

    question: Message
    before: tuple[Message, ...]
    state: _ConversationState
    attempt: int = 0
    after: tuple[Message, ...] = ()


class Conversation:
    """A conversation with ``engine``; ``messages`` has the turns so far.

    ``system`` is the system message. ``when_full`` says what happens when the conversation outgrows the engine's
    context: "stop", "drop" (the oldest turns leave ``messages``) or "slide" (a window, see ``context_overflow``);
    ``notify`` gets a line when it happens. ``template_arguments``, ``tools`` and ``documents`` are given to the chat
    template at every turn. ``settings`` are further arguments of ``Engine.generate``.
    """

    def __init__(
        self,
        engine: Engine,
        system: str | None = None,
        when_full: str = "stop",
        notify: Callable[[str], None] = lambda line: None,
        template_arguments: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        **settings: Any,
    ) -> None:
        self._engine, self._settings, self._when_full = engine, settings, when_full
        self._history = History(engine.tokenizer)
        self._inputs = make_inputs(template_arguments, tools, documents)
        self._policy = make_policy(when_full, engine.tokenizer, self._history, notify, self._inputs)
        self._answered: _Turn | None = None
        self.messages: list[Message] = _system_messages(system)

    @property
    def system(self) -> str | None:
        """The system message's text; None if there is none."""
        return self.messages[0]["content"] if _has_system(self.messages) else None

    @property
    def samples(self) -> bool:
        """Whether answers are drawn; else they are greedy."""
        sampling = self._settings.get("sampling")
        return sampling is not None and sampling.temperature > 0

    @property
    def _was_asked(self) -> bool:
        return any(message["role"] == "user" for message in self.messages)

    @property
    def question(self) -> Message:
        """The latest message of the user; NoTurnError if there is none."""
        return self._latest().question

    def save(self, path: Path | str) -> None:
        """Saves the conversation with the rows of all levels to ``path``, for ``restore`` in any process.

        If the engine has spoken with others since, only rows of text that both have are saved; the rest is read again.
        Of the settings, sampling, speculation, ``max_new_tokens``, ``stop``, ``ignore_eos``, ``constraint`` and the
        template's are kept. Whatever happens, the file is the old one or the new one; SessionError if it cannot be
        written.
        """
        self._engine.end_answer()
        overflow = Overflow(self._when_full, self._policy.left_out, self._policy.first)
        settings = keep_settings(self._settings)
        turns = self._history.snapshot()
        attempt = self._latest().attempt if self._was_asked else 0
        record = ConversationRecord(tuple(self.messages), turns, overflow, settings, self._inputs, attempt)
        self._engine.save(path, record.dump(), tokens=self._policy.shown(self._history.tokens))

    @classmethod
    def restore(
        cls,
        engine: Engine,
        path: Path | str,
        *,
        reread: bool = False,
        notify: Callable[[str], None] = lambda line: None,
        **settings: Any,
    ) -> Conversation:
        """The conversation saved at ``path``, to be continued by ``engine``: bit for bit, and nothing is read again.

        ``settings``, those of ``Conversation``, stand in place of the saved ones. SessionError if the file is missing,
        damaged, or holds no conversation. OtherSessionError if the engine cannot use its rows (another model, KV type
        or kernels, or a smaller plan); with ``reread`` the next answer reads its text again, and ``notify`` says why.
        """
        session = engine.restore(path, reread=reread)
        if session.conversation is None:
            raise SessionError(f"the session {path} holds no conversation; Engine.restore continues its tokens")
        try:
            record = parse_conversation(session.conversation)
        except UntrustedError as error:
            raise SessionError(f"the session {path} {error}; begin a new one") from None
        conversation = cls(engine, notify=notify, **{**record.arguments, **settings})
        conversation._take_over(record, session.same_vocabulary)
        if session.reread is not None:
            notify(f"the conversation is read again with the next answer: {session.reread}")
        return conversation

    def _take_over(self, record: ConversationRecord, same_vocabulary: bool) -> None:
        """Continues ``record``; tokens of another vocabulary are made of its texts again."""
        self.messages = list(record.messages)
        if same_vocabulary:
            for turn in record.turns:
                self._engine.encode(turn.tokens)  # refuses tokens without an embedding
            self._history.restore(record.turns)
            if record.overflow.when_full == self._when_full:
                self._policy.left_out = record.overflow.left_out
                self._policy.first = min(record.overflow.first, self._engine.capacity // 4)
        if self._was_asked:
            self._answered = replace(self._latest(), attempt=record.attempt, after=tuple(self.messages))

    def say(self, text: str) -> Answer[TextChunk]:
        """Answers the message ``text`` chunk by chunk; what was read of a cancelled answer stays in ``messages``.

        Earlier turns are not computed again, unless the template changes them or turns were dropped. ContextFullError
        if the conversation cannot continue; BusyError while another thread uses the engine.
        """
        self._engine.end_answer()
        return self._answer(_Turn(_user(text), tuple(self.messages), self._state))

    def regenerate(self) -> Answer[TextChunk]:
        """Answers the latest message of the user again; otherwise like ``say``.

        A greedy answer is the same text again. A sampled one is drawn with the seed after the one before, so the answer
        that replaces it is another draw, and the same one whenever this is repeated.
        """
        self._engine.end_answer()
        turn = self._latest()
        return self._answer(replace(turn, attempt=turn.attempt + 1))

    def edit(self, text: str) -> Answer[TextChunk]:
        """Answers ``text`` in place of the latest message of the user; otherwise like ``say``."""
        self._engine.end_answer()
        return self._answer(replace(self._latest(), question=_user(text), attempt=0))

    def undo(self) -> Message:
        """Takes back the latest message of the user and its answer; returns the message."""
        self._engine.end_answer()
        turn = self._latest()
        self.messages, self._state = list(turn.before), turn.state
        return turn.question

    def change_system(self, text: str | None) -> None:
        """Puts ``text`` in place of the system message; None: there is none from now on.

        The next answer reads the whole conversation again. ChatTemplateError if the template takes no system message;
        then nothing changes.
        """
        self._engine.end_answer()
        messages = [*_system_messages(text), *self.messages[_has_system(self.messages) :]]
        self._engine.tokenizer.render_chat([*messages, _user("")], self._inputs)
        self.messages, self._policy.left_out = messages, 0

    @property
    def _state(self) -> _ConversationState:
        return _ConversationState(self._policy.left_out, self._history.snapshot())

    @_state.setter
    def _state(self, state: _ConversationState) -> None:
        self._policy.left_out = state.left_out
        self._history.restore(state.turns)

    def _latest(self) -> _Turn:
        """The latest turn: the one that was answered, or else what the caller's ``messages`` end with."""
        if self._answered is not None and self._answered.after == tuple(self.messages):
            return self._answered
        places = [place for place, message in enumerate(self.messages) if message["role"] == "user"]
        if not places:
            raise NoTurnError("nothing was said yet in this conversation")
        return _Turn(self.messages[places[-1]], tuple(self.messages[: places[-1]]), self._state)

    def _answer(self, turn: _Turn) -> Answer[TextChunk]:
        messages, state = [*turn.before, turn.question], self._state
        self._state = turn.state
        try:
            tokens = self._policy.prompt(messages, self._engine.capacity)
            settings = {"when_full": self._policy.refit, "left_out": self._policy.left_out, **self._settings}
            answer = self._engine.generate(tokens, **_reseeded(settings, turn.attempt))
        except BaseException:
            self._state = state
            raise
        return answer.through(lambda chunks: self._record(messages, turn, chunks))

    def _record(
        self, messages: list[Message], turn: _Turn, chunks: Generator[TextChunk, None, None]
    ) -> Generator[TextChunk, None, None]:
        pieces: list[str] = []
        tokens: list[int] = []
        ended = False
        try:
            for chunk in chunks:
                pieces.append(chunk.text)
                tokens += chunk.step.tokens
                ended = chunk.step.finish == "eos"
                yield chunk
        finally:
            chunks.close()
            if pieces:
                shown = "".join(pieces)
                self._history.add_answer(tokens, shown, ended)
                self.messages = [*messages, {"role": "assistant", "content": shown}]
                self._answered = replace(turn, after=tuple(self.messages))


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _system_messages(text: str | None) -> list[Message]:
    return [] if text is None else [{"role": "system", "content": text}]


def _has_system(messages: Sequence[Message]) -> bool:
    return bool(messages) and messages[0]["role"] == "system"


def _reseeded(settings: dict[str, Any], attempt: int) -> dict[str, Any]:
    """The settings of the answer that follows ``attempt`` others to the same message."""
    sampling = settings.get("sampling")
    if not attempt or sampling is None:
        return settings
    return {**settings, "sampling": replace(sampling, seed=(sampling.seed + attempt) % _SEEDS)}
