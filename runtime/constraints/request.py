"""What a user asks an answer to be: plain values, one class for each way to say it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from export.manifest import PocketspecError

# The longest text of a constraint, in characters: an enumeration takes 25 bytes for each while it is compiled.
LONGEST = 1 << 18


class ConstraintError(PocketspecError, ValueError):
    """A constraint that cannot be compiled or followed."""


@dataclass(frozen=True)
class JsonSchema:
    """An answer that is a JSON value of ``schema``: a mapping, a boolean, or the text of one.

    Keys come in the schema's order. There is one space after each colon and comma and no other white space between
    values, unless the schema says so: ``"x-guidance": {"whitespace_flexible": true}``.
    """

    schema: Mapping[str, Any] | bool | str

    def __post_init__(self) -> None:
        text = self.schema
        if not isinstance(text, str):
            try:
                text = json.dumps(text, ensure_ascii=False)
            except (TypeError, ValueError, RecursionError) as error:
                raise ConstraintError(f"the JSON schema is no JSON: {error}") from None
        _check_length("the JSON schema", text)
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConstraintError(f"the JSON schema is no JSON: {error}") from None
        if not isinstance(value, dict | bool):
            raise ConstraintError("a JSON schema is an object or a boolean, not " + _kind_of(value))
        object.__setattr__(self, "schema", text)

    @property
    def text(self) -> str:
        """The schema as JSON."""
        assert isinstance(self.schema, str)
        return self.schema


@dataclass(frozen=True)
class AnyJsonObject:
    """An answer that is any JSON object, with spaces as in ``JsonSchema``."""


@dataclass(frozen=True)
class Regex:
    """An answer that matches ``pattern`` as a whole, in the syntax of Rust's regex crate; no look-around."""

    pattern: str

    def __post_init__(self) -> None:
        _check_text("the regular expression", self.pattern)


@dataclass(frozen=True)
class Grammar:
    """An answer in the language of a context-free grammar, in llguidance's variant of Lark's syntax.

    It begins with the rule ``start``.
    """

    lark: str

    def __post_init__(self) -> None:
        _check_text("the grammar", self.lark)


Constrained = JsonSchema | AnyJsonObject | Regex | Grammar


_KINDS: dict[str, type[JsonSchema | Regex | Grammar]] = {"json_schema": JsonSchema, "regex": Regex, "grammar": Grammar}


def constraint_data(constraint: Constrained | None) -> list[str] | None:
    """``constraint`` as JSON data: its kind, and its text if it has one."""
    match constraint:
        case None:
            return None
        case AnyJsonObject():
            return ["json_object"]
        case JsonSchema():
            return ["json_schema", constraint.text]
        case Regex(text):
            return ["regex", text]
        case Grammar(text):
            return ["grammar", text]


def constraint_of(data: Any) -> Constrained | None:
    """The constraint in ``data``, which a stranger may have written; ConstraintError."""
    match data:
        case None:
            return None
        case ["json_object"]:
            return AnyJsonObject()
        case [str(kind), str(text)] if kind in _KINDS:
            return _KINDS[kind](text)
    raise ConstraintError(f"{str(data)[:80]!r} is no constraint; it must be one of {', '.join(_KINDS)} with its text")


def cut_notice(constraint: Constrained | None, finish: str | None) -> str | None:
    """What a user must know of a constrained answer that ended by ``finish``; None: nothing."""
    if constraint is None or finish not in ("length", "context"):
        return None
    remedy = "raise --max-new-tokens" if finish == "length" else "open the bundle with a larger --context"
    return f"the answer was cut off and may be incomplete ({finish}): {remedy}"


def _check_text(what: str, text: object) -> None:
    if not isinstance(text, str):
        raise ConstraintError(f"{what} is {text!r}; it must be a text")
    if not text.strip():
        raise ConstraintError(f"{what} is empty; say what an answer may be")
    _check_length(what, text)


def _check_length(what: str, text: str) -> None:
    if len(text) > LONGEST:
        raise ConstraintError(f"{what} has {len(text):,} characters; at most {LONGEST:,} are compiled; shorten it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConstraintError(f"{what} is not valid Unicode text: {error.reason} at character {error.start}") from None


def _kind_of(value: object) -> str:
    return "a list" if isinstance(value, list) else repr(value)[:40]
