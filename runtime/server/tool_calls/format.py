"""What a format of tool calls is, and what a call is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class ToolCall:
    """A call of the function ``name``; ``arguments`` is a JSON object as text."""

    name: str
    arguments: str


class ToolFormat(Protocol):
    """How calls are written in the text of an answer.

    ``traces``: texts in a chat template that give the format away. ``opens``: what begins calls anywhere in an answer;
    ``opens_answer``: what does so only at its beginning. ``visible_tokens``: special tokens among them, which have no
    text unless it is asked for. ``around``: the texts before and after the JSON object of one call, markers by
    themselves; ``arguments_key``: the key of its arguments.
    """

    @property
    def name(self) -> str: ...

    @property
    def traces(self) -> tuple[str, ...]: ...

    @property
    def opens(self) -> tuple[str, ...]: ...

    @property
    def opens_answer(self) -> tuple[str, ...]: ...

    @property
    def visible_tokens(self) -> tuple[str, ...]: ...

    @property
    def around(self) -> tuple[tuple[str, ...], tuple[str, ...]]: ...

    @property
    def arguments_key(self) -> str: ...

    def find_end(self, text: str) -> int | None:
        """Where the calls at the beginning of ``text`` end; None while more may follow."""
        ...

    def parse(self, text: str) -> list[ToolCall]:
        """The calls in ``text``; none if it is no call."""
        ...


def read_call(value: Any, arguments: tuple[str, ...] = ("arguments", "parameters")) -> ToolCall | None:
    """The call in a JSON object with a name and one of ``arguments``; None if it is none."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    given: Any = next((value[key] for key in arguments if key in value), {})
    if isinstance(given, str):  # some models write the object as text once more
        given = parse_json(given)
    return ToolCall(value["name"], json.dumps(given, ensure_ascii=False)) if isinstance(given, dict) else None


def parse_json(text: str) -> Any:
    """The JSON value in ``text``; None if it is not JSON, nested too deeply, or null."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def end_of_json(text: str) -> int:
    """Where the JSON value that ``text`` begins with ends, or turns out to be none; all of a string that goes on."""
    try:
        return json.JSONDecoder().raw_decode(text, len(text) - len(text.lstrip()))[1]
    except json.JSONDecodeError as error:
        return len(text) if error.msg.startswith("Unterminated string") else error.pos
    except RecursionError:
        return 0
