"""A conversation as a session file keeps it: its messages, the tokens of its turns, its settings, what was left out.

Settings that are no plain data (functions) are not kept; who restores the conversation gives them again. A constraint
is kept as it was asked for: every answer begins at its beginning, so no place within one is kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

from export.manifest import PocketspecError
from export.records import build_record
from export.untrusted import UntrustedError, Within, parse_own_json, shown
from runtime.constraints.request import Constrained, constraint_data, constraint_of
from runtime.decoding.sampling import SamplingParams
from runtime.sessions.errors import SessionError
from runtime.speculation.request import Speculation
from runtime.text.template_data import Message, TemplateInputs, make_inputs, plain
from runtime.text.token_history import TokenizedTurn, TokenizedTurns

_MOST_TOKEN = (1 << 31) - 1
_FIELDS = ("messages", "turns", "overflow", "settings", "template")
_MOST_ATTEMPTS = 1 << 53


@dataclass(frozen=True)
class Overflow:
    """What a full context has done to a conversation: see ``context_overflow.Policy``."""

    when_full: str
    left_out: Annotated[int, Within(0, 1 << 53)]
    first: Annotated[int, Within(0, 1 << 31)]


@dataclass(frozen=True)
class AnswerSettings:
    """The settings of ``Engine.generate`` that are kept."""

    sampling: SamplingParams | None = None
    speculation: Speculation | None = None
    max_new_tokens: Annotated[int, Within(0, 1 << 31)] | None = None
    stop: tuple[str, ...] | None = None
    ignore_eos: bool = False
    constraint: Constrained | None = None

    @property
    def given(self) -> dict[str, Any]:
        """Those that differ from the defaults."""
        return {name: value for name in vars(self) if (value := getattr(self, name)) not in (None, False)}


@dataclass(frozen=True)
class ConversationRecord:
    """A conversation; ``turns`` are those of its ``History``, ``template`` the chat template's inputs.

    ``attempt``: how often the latest message was answered before the answer that it has. Files have it if it is not 0.
    """

    messages: Sequence[Message]
    turns: TokenizedTurns
    overflow: Overflow
    settings: AnswerSettings
    template: TemplateInputs
    attempt: int = 0

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments with which a ``Conversation`` like this one is made."""
        template = {
            "template_arguments" if name == "arguments" else name: each for name, each in vars(self.template).items()
        }
        return {"when_full": self.overflow.when_full, **template, **self.settings.given}

    def dump(self) -> dict[str, Any]:
        """The record as JSON data; SessionError for messages or settings that are none, or too deep to be read."""
        try:
            data = {
                "messages": [plain(message, "messages") for message in self.messages],
                "turns": [turn._asdict() for turn in self.turns],
                "overflow": asdict(self.overflow),
                "settings": {**asdict(self.settings), "constraint": constraint_data(self.settings.constraint)},
                "template": asdict(self.template),
                **({"attempt": self.attempt} if self.attempt else {}),
            }
            parse_conversation(parse_own_json(json.dumps(data)))
        except (PocketspecError, UntrustedError, TypeError, ValueError) as error:
            raise SessionError(f"the conversation cannot be saved: it {error}") from None
        return data


def keep_settings(settings: Mapping[str, Any]) -> AnswerSettings:
    """Those of ``settings``, for ``Engine.generate``, that are kept."""
    kept = {name: settings[name] for name in AnswerSettings.__dataclass_fields__ if settings.get(name) is not None}
    stop = kept.get("stop")
    if stop is not None:
        kept["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    return AnswerSettings(**kept)


def parse_conversation(data: Any) -> ConversationRecord:
    """The conversation in ``data``, which a stranger may have written; UntrustedError."""
    if not isinstance(data, dict) or set(data) - {"attempt"} != set(_FIELDS):
        raise UntrustedError(f"has a conversation without {', '.join(_FIELDS)}")
    try:
        settings = _settings(data["settings"])
        overflow = build_record(Overflow, data["overflow"], "is malformed in its overflow")
        template = _template(_mapping(data["template"], ("arguments", "tools", "documents")))
    except PocketspecError as error:
        raise UntrustedError(f"has settings that mean nothing: {error}") from None
    if settings.speculation is not None and settings.speculation.limit is not None:
        raise UntrustedError("has a limit of drafts, which is not kept; give a draft size")
    return ConversationRecord(
        tuple(_message(item) for item in _list(data["messages"], "messages")),
        tuple(_turn(item) for item in _list(data["turns"], "turns")),
        overflow,
        settings,
        template,
        _attempt(data.get("attempt", 0)),
    )


def _attempt(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MOST_ATTEMPTS:
        raise UntrustedError(f"has {shown(value)} for the number of answers before the latest one")
    return value


def _settings(value: Any) -> AnswerSettings:
    """The settings in ``value``. Stop strings may have characters that no other text of a record has."""
    if not isinstance(value, dict):
        raise UntrustedError(f"has {shown(value)} for settings")
    others = {**value, "stop": None, "constraint": None}
    settings: AnswerSettings = build_record(AnswerSettings, others, "is malformed in its settings")
    settings = replace(settings, constraint=constraint_of(value.get("constraint")))
    if value.get("stop") is None:
        return settings
    stop = tuple(_list(value["stop"], "stop strings"))
    if not all(isinstance(string, str) for string in stop):
        raise UntrustedError(f"has {shown(value['stop'])} for stop strings")
    return replace(settings, stop=stop)


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise UntrustedError(f"has {shown(value)} for {what}")
    return value


def _mapping(value: Any, names: Sequence[str]) -> dict[str, Any]:
    """``value``, a mapping of exactly ``names``."""
    if not isinstance(value, dict) or set(value) != set(names):
        raise UntrustedError(f"has {shown(value)} where {', '.join(names)} belong")
    return value


def _template(value: Mapping[str, Any]) -> TemplateInputs:
    if not isinstance(value["arguments"], dict):
        raise UntrustedError(f"has {shown(value['arguments'])} for arguments of the chat template")
    return make_inputs(**value)


def _message(value: Any) -> Message:
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        raise UntrustedError(f"has a message without a role: {shown(value)}")
    return value


def _turn(value: Any) -> TokenizedTurn:
    fields = _mapping(value, TokenizedTurn._fields)
    prompt, answers, tokens = fields["prompt"], _list(fields["answers"], "answers"), _list(fields["tokens"], "tokens")
    if not isinstance(prompt, str) or not all(isinstance(answer, str) for answer in answers):
        raise UntrustedError(f"has a turn that is no text: {shown(value)}")
    if not all(type(token) is int and 0 <= token <= _MOST_TOKEN for token in tokens):
        raise UntrustedError("has a turn whose tokens are none")
    return TokenizedTurn(prompt, tuple(answers), tuple(tokens))
