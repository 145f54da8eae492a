"""The body of ``/v1/chat/completions``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from runtime.server.requests.base import Generation, JsonObject, Nothing, Strict, Text


class TextPart(Strict):
    """A part of a message; other kinds (images, sound, files) are not for models that read text."""

    type: Literal["text"]
    text: str


Content = str | Annotated[list[TextPart], Field(min_length=1)]


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
    tool_calls: Annotated[list[MessageToolCall], Field(min_length=1)] | None = None
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
    strict: Literal[False] | None = None


class Tool(Strict):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: FunctionTool


class ResponseFormat(Strict):
    """Free text."""

    type: Literal["text"]


class ChatRequest(Generation):
    """A conversation to be answered. ``chat_template_kwargs`` are the chat template's own arguments."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(min_length=1)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: Literal[True] | None = None
    chat_template_kwargs: JsonObject | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: Literal[False] | None = None
