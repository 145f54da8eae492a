"""The objects that clients get, under OpenAI's names; ``timings`` is llama.cpp's. The OpenAPI document shows them."""

from __future__ import annotations

import secrets
import string
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from runtime.decoding.stats import GenerationStats
from runtime.server.reading import Collected
from runtime.server.token_sources import TokenSource
from runtime.server.tool_calls.format import ToolCall

FinishReason = Literal["stop", "length", "tool_calls"]
_ID_LETTERS = string.ascii_letters + string.digits


class PromptTokensDetails(TypedDict):
    """``cached_tokens`` were still in the KV cache."""

    cached_tokens: int


class CompletionTokensDetails(TypedDict):
    """``reasoning_tokens`` of the answer are reasoning."""

    reasoning_tokens: int


class Usage(TypedDict):
    """Tokens of one answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class Timings(TypedDict):
    """Times of one answer in milliseconds; ``prompt_n`` tokens were read, ``cache_n`` were cached."""

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float
    draft_n: int
    draft_n_accepted: int


class Function(TypedDict):
    """A function's name, and its arguments as JSON text."""

    name: str
    arguments: str


class ReplyToolCall(TypedDict):
    """A tool call; ``index`` in streams alone."""

    index: NotRequired[int]
    id: str
    type: Literal["function"]
    function: Function


class TopLogprob(TypedDict):
    """A token that could have been; ``bytes`` is null for a token without text."""

    token: str
    logprob: float
    bytes: list[int] | None


class ContentLogprob(TopLogprob):
    """A token of the answer, with the most probable ones at its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    """Log probabilities of all tokens of the answer, those of reasoning and tool calls included."""

    content: list[ContentLogprob]
    refusal: None


class TextLogprobs(TypedDict):
    """Log probabilities in the form of ``/v1/completions``; offsets count from the beginning of the answer."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class ReplyMessage(TypedDict):
    """The answer. ``content`` is null if there are only tool calls."""

    role: Literal["assistant"]
    content: str | None
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[ReplyToolCall]]


class Choice(TypedDict):
    """The one choice there is."""

    index: int
    message: ReplyMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(TypedDict):
    """The reply of ``/v1/chat/completions``."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    timings: Timings


class TextChoice(TypedDict):
    """The one text there is."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None
    token_sources: NotRequired[list[TokenSource]]


class Completion(TypedDict):
    """The reply of ``/v1/completions``; in a stream ``usage`` and ``timings`` come at the end."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: NotRequired[Usage | None]
    timings: NotRequired[Timings]


class ModelCard(TypedDict):
    """One model; ``context`` is what prompt and answer may have together, in tokens."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context: int


class ModelList(TypedDict):
    """The reply of ``/v1/models``."""

    object: Literal["list"]
    data: list[ModelCard]


class Health(TypedDict):
    """The reply of ``/health``."""

    status: Literal["ok"]


class MemoryNow(TypedDict):
    """What the process has now."""

    anonymous_bytes: int
    file_bytes: int


class PlanReply(TypedDict):
    """The plan of ``model``, whole and in its main numbers. ``memory`` is null where the system does not tell."""

    model: str
    budget_bytes: int
    needed_bytes: int
    smallest_budget_bytes: int
    tokens_per_second: float
    memory: MemoryNow | None
    plan: dict[str, Any]


class ErrorObject(TypedDict):
    """What is wrong, with which parameter."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(TypedDict):
    """The reply to a request that is refused."""

    error: ErrorObject


def usage_of(collected: Collected) -> Usage:
    """The tokens of an answer."""
    stats = GenerationStats() if collected.last is None else collected.last.stats
    return {
        "prompt_tokens": stats.prompt_tokens,
        "completion_tokens": stats.tokens,
        "total_tokens": stats.prompt_tokens + stats.tokens,
        "prompt_tokens_details": {"cached_tokens": stats.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": collected.reasoning_tokens},
    }


def timings_of(collected: Collected) -> Timings:
    """The times of an answer: reading the prompt, and every step from the first one on."""
    stats = GenerationStats() if collected.last is None else collected.last.stats
    read, prompt = stats.prompt_tokens - stats.cached_tokens, collected.prompt_seconds
    predicted = stats.seconds - prompt
    return {
        "cache_n": stats.cached_tokens,
        "prompt_n": read,
        "prompt_ms": prompt * 1e3,
        "prompt_per_token_ms": _ratio(prompt * 1e3, read),
        "prompt_per_second": _ratio(read, prompt),
        "predicted_n": stats.tokens,
        "predicted_ms": predicted * 1e3,
        "predicted_per_token_ms": _ratio(predicted * 1e3, stats.tokens),
        "predicted_per_second": _ratio(stats.tokens, predicted),
        "draft_n": stats.drafted,
        "draft_n_accepted": stats.accepted,
    }


def make_id(prefix: str) -> str:
    """A new id of an answer."""
    return f"{prefix}-{secrets.token_hex(12)}"


def tool_call(call: ToolCall) -> ReplyToolCall:
    """A call as clients get it. Its id has nine letters and digits: Mistral's templates take back no other form."""
    name = "".join(secrets.choice(_ID_LETTERS) for _ in range(9))
    return {"id": name, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _ratio(over: float, under: float) -> float:
    return over / under if under > 0 else 0.0
