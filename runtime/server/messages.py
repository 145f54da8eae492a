"""Turns a request's messages and tools into those that chat templates expect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime.server.requests.chat import Content, Message, MessageToolCall, Tool
from runtime.server.tool_calls.format import parse_json


def template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as templates know them: one text each, ``developer`` as ``system``, arguments as objects."""
    return [_message(message) for message in messages]


def template_tools(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The tools as templates know them, with only what was given."""
    return [
        {"type": tool.type, "function": tool.function.model_dump(exclude_none=True, exclude={"strict"})}
        for tool in tools
    ]


def text_of(content: Content) -> str:
    """The text of a message's content; parts follow one another without anything between them."""
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _message(message: Message) -> dict[str, Any]:
    data: dict[str, Any] = message.model_dump(exclude_none=True, exclude={"content", "tool_calls"})
    if data["role"] == "developer":
        data["role"] = "system"
    calls = getattr(message, "tool_calls", None)
    if calls:
        data["tool_calls"] = [_call(call) for call in calls]
    return data | {"content": "" if message.content is None else text_of(message.content)}


def _call(call: MessageToolCall) -> dict[str, Any]:
    """A call with its arguments as an object, which templates write as JSON; text that is no object stays text."""
    arguments = parse_json(call.function.arguments)
    function: dict[str, Any] = {"name": call.function.name, "arguments": call.function.arguments}
    if isinstance(arguments, dict):
        function["arguments"] = arguments
    return {"id": call.id, "type": call.type, "function": function}
