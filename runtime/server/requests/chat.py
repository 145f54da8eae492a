"""The body of ``/v1/chat/completions``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from runtime.server.requests.base import (
    MOST_MESSAGES,
    MOST_TOOLS,
    Generation,
    JsonObject,
    No,
    Nothing,
    Strict,
    Text,
    Yes,
)


class TextPart(Strict):
    """A part of a message; other kinds (images, sound, files) are not for models that read text."""

    type: Literal["text"]
    text: str


Content = str | Annotated[list[TextPart], Field(min_length=1, fail_fast=True)]


class SystemMessage(Strict):
    """Instructions; ``developer`` is another name for ``system``."""

    role: Literal["system", "developer"]
    content: Content
    name: Text | None = None


class UserMessage(Strict):
    """What the user says."""

    role: Literal["user"]
    content: Content
    name: Text | None = None


class FunctionCall(Strict):
    """A function's name, and its arguments as JSON text."""

    name: Text
    arguments: str


class MessageToolCall(Strict):
    """A call in an earlier answer."""

    id: Text
    type: Literal["function"] = "function"
    function: FunctionCall


class AssistantMessage(Strict):
    """An earlier answer, as the server gave it."""

    role: Literal["assistant"]
    content: Content | None = None
    reasoning_content: str | None = None
    tool_calls: Annotated[list[MessageToolCall], Field(min_length=1, fail_fast=True)] | None = None
    name: Text | None = None
    refusal: Nothing = None
    annotations: Nothing = None
    audio: Nothing = None
    function_call: Nothing = None


class ToolMessage(Strict):
    """What a tool returned."""

    role: Literal["tool"]
    content: Content
    tool_call_id: Text
    name: Text | None = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class FunctionTool(Strict):
    """A function that the model may call; ``parameters`` is a JSON schema."""

    name: Text
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class Tool(Strict):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: FunctionTool


class FreeText(Strict):
    """Free text."""

    type: Literal["text"]


class AnyObject(Strict):
    """Any JSON object."""

    type: Literal["json_object"]


class NamedSchema(Strict):
    """A JSON schema; it is always followed to the letter, whatever ``strict`` says."""

    name: Text
    description: str | None = None
    schema_: Annotated[JsonObject | None, Field(alias="schema")] = None
    strict: bool | None = None


class SchemaFormat(Strict):
    """JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[FreeText | AnyObject | SchemaFormat, Field(discriminator="type")]


class NamedFunction(Strict):
    """A function by its name."""

    name: Text


class NamedChoice(Strict):
    """The one function that must be called."""

    type: Literal["function"]
    function: NamedFunction


class ChatRequest(Generation):
    """A conversation to be answered. ``chat_template_kwargs`` are the chat template's own arguments."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(min_length=1, max_length=MOST_TOOLS, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = None
    parallel_tool_calls: Yes | None = None
    chat_template_kwargs: JsonObject | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1, fail_fast=True)] | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: No | None = None
