"""The body of ``/v1/responses``, and the chat request that it amounts to."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from runtime.server.requests.base import (
    MOST_MESSAGES,
    MOST_TOOLS,
    Asked,
    JsonObject,
    No,
    Nothing,
    Strict,
    Text,
    Yes,
    Zero,
)
from runtime.server.requests.chat import AnyObject, ChatRequest, FreeText


class InputText(Strict):
    """A part of a message: what a user wrote, or what an earlier response said."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: Annotated[list[JsonObject], Field(max_length=0, fail_fast=True)] | None = None
    logprobs: Annotated[list[JsonObject], Field(fail_fast=True)] | None = None


class MessageItem(Strict):
    """A message. ``id``, ``status`` and ``phase`` are as in the response that it comes from, and mean nothing here."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Annotated[list[InputText], Field(min_length=1, fail_fast=True)]
    id: str | None = None
    status: Literal["completed", "incomplete", "in_progress"] | None = None
    phase: str | None = None


class FunctionCallItem(Strict):
    """A call in an earlier response."""

    type: Literal["function_call"]
    call_id: Text
    name: Text
    arguments: str
    id: str | None = None
    status: Literal["completed", "incomplete", "in_progress"] | None = None
    namespace: Nothing = None
    caller: Nothing = None


class FunctionOutputItem(Strict):
    """What a function returned."""

    type: Literal["function_call_output"]
    call_id: Text
    output: str
    id: str | None = None
    status: Literal["completed", "incomplete", "in_progress"] | None = None


class ReasoningText(Strict):
    """A part of reasoning."""

    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(Strict):
    """The reasoning of an earlier response, which belongs to what follows it."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: Annotated[list[JsonObject], Field(max_length=0, fail_fast=True)] | None = None
    content: Annotated[list[ReasoningText], Field(fail_fast=True)] | None = None
    encrypted_content: Nothing = None
    status: Literal["completed", "incomplete", "in_progress"] | None = None


def _kind_of(item: Any) -> Any:
    """What ``item`` says it is; messages need not say so."""
    return item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", None)


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(
        _kind_of,
        custom_error_type="item_type",
        custom_error_message="it must be an object of type message, function_call, function_call_output or reasoning",
    ),
]


class ResponseTool(Strict):
    """A function that the model may call."""

    type: Literal["function"]
    name: Text
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class FlatSchemaFormat(Strict):
    """JSON of a schema, which is always followed to the letter."""

    type: Literal["json_schema"]
    name: Text
    schema_: Annotated[JsonObject, Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


class TextSettings(Strict):
    """The form of the text."""

    format: Annotated[FreeText | AnyObject | FlatSchemaFormat, Field(discriminator="type")] | None = None


class ChosenFunction(Strict):
    """The one function that must be called."""

    type: Literal["function"]
    name: Text


class ResponsesRequest(Asked):
    """A conversation to be answered, in the newer form. Nothing is stored, so every request has all messages."""

    input: Text | Annotated[list[Item], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    text: TextSettings | None = None
    tools: Annotated[list[ResponseTool], Field(min_length=1, max_length=MOST_TOOLS, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenFunction | None = None
    parallel_tool_calls: Yes | None = None
    chat_template_kwargs: JsonObject | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: No | None = None
    truncation: Literal["disabled"] | None = None
    top_logprobs: Zero | None = None


# Where a field of the chat request comes from; others have the same name.
ORIGINS = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
}
_SAME = (*Asked.model_fields, "parallel_tool_calls", "chat_template_kwargs")


def as_chat(asked: ResponsesRequest) -> ChatRequest:
    """The chat request that asks for the same."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": asked.instructions}] if asked.instructions else []
    if isinstance(asked.input, str):
        messages.append({"role": "user", "content": asked.input})
    else:
        messages += _messages(asked.input)
    tools = [
        {"type": tool.type, "function": tool.model_dump(exclude={"type"}, exclude_none=True)}
        for tool in asked.tools or ()
    ]
    choice: Any = asked.tool_choice
    if isinstance(choice, ChosenFunction):
        choice = {"type": choice.type, "function": {"name": choice.name}}
    return ChatRequest.model_validate(
        {
            **{name: getattr(asked, name) for name in _SAME},
            "messages": messages,
            "tools": tools or None,
            "max_completion_tokens": asked.max_output_tokens,
            "response_format": _format(asked.text),
            "tool_choice": choice,
        }
    )


def _format(settings: TextSettings | None) -> dict[str, Any] | None:
    """The form of the text as chat requests have it."""
    form = None if settings is None else settings.format
    if form is None:
        return None
    data = form.model_dump(by_alias=True, exclude={"type"})
    return {"type": form.type, **({"json_schema": data} if data else {})}


def _messages(items: list[Item]) -> list[dict[str, Any]]:
    """The items as messages: reasoning, text and calls that follow one another are one answer."""
    messages: list[dict[str, Any]] = []
    for item in items:
        match item:
            case FunctionOutputItem():
                messages.append({"role": "tool", "content": item.output, "tool_call_id": item.call_id})
            case FunctionCallItem():
                call = {"id": item.call_id, "function": {"name": item.name, "arguments": item.arguments}}
                _answer(messages).setdefault("tool_calls", []).append(call)
            case ReasoningItem():
                _answer(messages)["reasoning_content"] = "".join(part.text for part in item.content or ())
            case MessageItem(role="assistant"):
                _answer(messages)["content"] = _text(item)
            case MessageItem():
                messages.append({"role": item.role, "content": _text(item)})
    return messages


def _answer(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The answer at the end of ``messages``, a new one if there is none."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant"})
    return messages[-1]


def _text(item: MessageItem) -> str:
    return item.content if isinstance(item.content, str) else "".join(part.text for part in item.content)
