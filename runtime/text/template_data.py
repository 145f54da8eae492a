"""Prepares what a chat template is given, as transformers does: messages, tools, documents and arguments.

A template is a stranger's program and sees only plain data: text, numbers, lists and mappings. As in transformers'
``apply_chat_template``, keys of a message with value None are left out, and an answer's reasoning is passed under all
of its names. Any other object is refused; transformers would write the name of its type.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from export.manifest import PocketspecError

Message = Mapping[str, Any]

# What a template is given of the prompt itself.
_OWN = ("messages", "add_generation_prompt")
_KINDS = {"tools": "JSON schemas of functions", "documents": "with title and text"}
# Names of an answer's reasoning, the standard one first (transformers 5.24, chat_template_utils).
_REASONING = ("reasoning_content", "thinking", "reasoning")


class ChatTemplateError(PocketspecError, ValueError):
    """A template that does not compile, or that refuses its messages."""


@dataclass(frozen=True)
class TemplateInputs:
    """The inputs of a template beside the messages: ``tools`` as JSON schemas, ``documents``, and ``arguments``."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[Mapping[str, Any]] | None = None
    documents: Sequence[Mapping[str, Any]] | None = None

    @property
    def names(self) -> list[str]:
        """The names that a template must use for these inputs to have an effect."""
        return [name for name in ("tools", "documents") if getattr(self, name)] + list(self.arguments)


NO_INPUTS = TemplateInputs()


def make_inputs(
    arguments: Mapping[str, Any] | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
) -> TemplateInputs:
    """The inputs as plain data, or ChatTemplateError; ``tools`` and ``documents`` may stand among the ``arguments``.

    >>> make_inputs({"enable_thinking": False, "tools": []})
    TemplateInputs(arguments={'enable_thinking': False}, tools=[], documents=None)
    """
    rest = dict(arguments or {})
    lists: dict[str, Any] = {"tools": tools, "documents": documents}
    for name, value in lists.items():
        if value is None:
            lists[name] = rest.pop(name, None)
        elif name in rest:
            raise ChatTemplateError(
                f"{name} are given twice, by themselves and among the template's arguments; drop one"
            )
    for name in rest:
        if name in _OWN:
            raise ChatTemplateError(f"{name!r} is no argument that can be set: it is what the prompt becomes")
    return TemplateInputs(plain(rest, "template arguments"), **{name: _mappings(name, lists[name]) for name in lists})


def is_message(value: Any) -> bool:
    """Whether ``value`` can be a message: a mapping, or an object that converts to one."""
    is_object = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return isinstance(value, Mapping) or is_object or callable(getattr(value, "model_dump", None))


def prepare_messages(messages: Sequence[Any]) -> list[dict[str, Any]]:
    """``messages`` as plain mappings without keys of value None, with reasoning under all of its names."""
    if not messages:
        raise ChatTemplateError("a chat has no messages; give at least one, with role and content")
    return [_prepare(plain(message, "messages")) for message in messages]


def plain(value: Any, where: str) -> Any:
    """``value`` copied as plain data; dataclasses and objects with ``model_dump`` (pydantic) become mappings."""
    try:
        return _plain(value, where)
    except RecursionError:
        raise ChatTemplateError(f"{where} are nested too deeply, or in a circle") from None


def _plain(value: Any, where: str) -> Any:
    match value:
        case None | bool():
            return value
        case np.generic():
            return _plain(value.item(), where)
        case str():
            return str.__str__(value)
        case int():
            return int.__int__(value)
        case float():
            return float.__float__(value)
        case Mapping():
            return {_plain(key, where): _plain(item, where) for key, item in value.items()}
        case list():
            return [_plain(item, where) for item in value]
        case tuple():
            return tuple(_plain(item, where) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name), where) for each in dataclasses.fields(value)}
    if callable(getattr(value, "model_dump", None)):
        return _plain(value.model_dump(), where)
    raise ChatTemplateError(f"{where} must be plain JSON data, and {type(value).__name__} is among them; convert it")


def _prepare(message: Any) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise ChatTemplateError(f"a message is {message!r}; expected a mapping with role and content")
    kept = {key: value for key, value in message.items() if value is not None}
    reasoning = next((kept[name] for name in _REASONING if name in kept), None)
    return kept if reasoning is None else {"thinking": reasoning, **kept, "reasoning_content": reasoning}


def _mappings(name: str, value: Any) -> list[Any] | None:
    """Tools or documents: a list of mappings. Functions are not converted to schemas, unlike in transformers."""
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not all(isinstance(item, Mapping) for item in value):
        raise ChatTemplateError(f"{name} must be a list of mappings ({_KINDS[name]}), not {value!r:.60}")
    return [plain(item, name) for item in value]
