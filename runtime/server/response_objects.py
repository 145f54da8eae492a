"""The objects of ``/v1/responses``, under OpenAI's names."""

from __future__ import annotations

import secrets
import time
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from runtime.server.reading import Collected
from runtime.server.replies import Timings, timings_of
from runtime.server.requests.responses import ResponsesRequest
from runtime.server.tool_calls.format import ToolCall

Status = Literal["in_progress", "completed", "incomplete"]


class OutputText(TypedDict):
    """The text of an answer."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[Any]


class OutputMessage(TypedDict):
    """An answer."""

    type: Literal["message"]
    id: str
    status: Status
    role: Literal["assistant"]
    content: list[OutputText]


class OutputReasoningText(TypedDict):
    """The text of reasoning."""

    type: Literal["reasoning_text"]
    text: str


class OutputReasoning(TypedDict):
    """Reasoning before an answer."""

    type: Literal["reasoning"]
    id: str
    status: Status
    summary: list[Any]
    content: list[OutputReasoningText]


class OutputCall(TypedDict):
    """A function call."""

    type: Literal["function_call"]
    id: str
    call_id: str
    name: str
    arguments: str
    status: Status


OutputItem = OutputMessage | OutputReasoning | OutputCall


class InputDetails(TypedDict):
    """``cached_tokens`` were still in the KV cache."""

    cached_tokens: int


class OutputDetails(TypedDict):
    """``reasoning_tokens`` of the answer are reasoning."""

    reasoning_tokens: int


class ResponseUsage(TypedDict):
    """Tokens of one response."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class IncompleteDetails(TypedDict):
    """Why a response ends early."""

    reason: Literal["max_output_tokens"]


class Response(TypedDict):
    """The reply of ``/v1/responses``."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Status
    error: None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: None
    temperature: float | None
    top_p: float | None
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    store: bool
    metadata: dict[str, str]
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    timings: NotRequired[Timings]


def begin_response(model: str, asked: ResponsesRequest) -> Response:
    """A response of which nothing is there yet."""
    form = asked.text.format if asked.text is not None else None
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "model": model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "text": {"format": {"type": "text"} if form is None else form.model_dump(by_alias=True, exclude_none=True)},
        "tool_choice": _choice(asked),
        "tools": [tool.model_dump() for tool in asked.tools or ()],
        "store": False,
        "metadata": {},
        "truncation": "disabled",
        "usage": None,
    }


def _choice(asked: ResponsesRequest) -> str | dict[str, Any]:
    choice = asked.tool_choice or "auto"
    return choice if isinstance(choice, str) else choice.model_dump()


def end_response(response: Response, output: list[OutputItem], collected: Collected) -> Response:
    """The finished response."""
    assert collected.last is not None
    stats, is_cut = collected.last.stats, collected.finish_reason == "length"
    return {
        **response,
        "status": "incomplete" if is_cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "output": output,
        "usage": {
            "input_tokens": stats.prompt_tokens,
            "input_tokens_details": {"cached_tokens": stats.cached_tokens},
            "output_tokens": stats.tokens,
            "output_tokens_details": {"reasoning_tokens": collected.reasoning_tokens},
            "total_tokens": stats.prompt_tokens + stats.tokens,
        },
        "timings": timings_of(collected),
    }


def new_id(prefix: str) -> str:
    """A new id of a response or an item of one."""
    return f"{prefix}_{secrets.token_hex(12)}"


def message_item(name: str, status: Status, *texts: str) -> OutputMessage:
    """An answer with ``texts``."""
    return {
        "type": "message",
        "id": name,
        "status": status,
        "role": "assistant",
        "content": [output_text(text) for text in texts],
    }


def output_text(text: str) -> OutputText:
    """The text of an answer."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def reasoning_item(name: str, status: Status, *texts: str) -> OutputReasoning:
    """Reasoning with ``texts``."""
    return {
        "type": "reasoning",
        "id": name,
        "status": status,
        "summary": [],
        "content": [{"type": "reasoning_text", "text": text} for text in texts],
    }


def call_item(name: str, call_id: str, status: Status, call: ToolCall) -> OutputCall:
    """A function call."""
    return {
        "type": "function_call",
        "id": name,
        "call_id": call_id,
        "name": call.name,
        "arguments": call.arguments,
        "status": status,
    }
