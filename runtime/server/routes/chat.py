"""``POST /v1/chat/completions``."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from runtime.decoding.logprobs import TokenLogprob
from runtime.server.json_parts import LazyList
from runtime.server.logprobs import chat_logprobs
from runtime.server.prepare import prepare_chat
from runtime.server.reading import Collected
from runtime.server.replies import ChatCompletion, ReplyMessage, make_id, timings_of, tool_call, usage_of
from runtime.server.requests.chat import ChatRequest
from runtime.server.served import ServedModel
from runtime.server.service import Running, Service
from runtime.server.streams import DONE, EventStream, event, whole_reply
from runtime.server.unread import Piece


async def chat_completions(request: Request) -> Response:
    """Answers a conversation, at once or in a stream."""
    service = Service.of(request)
    asked, prepared, share = await service.prepare(request, ChatRequest, prepare_chat)
    running = Running(service, prepared, share, asked.token_sources)
    if asked.stream:
        return EventStream(_events(running, asked), running)
    return await whole_reply(request, running, _reply(running, asked))


async def _reply(running: Running, asked: ChatRequest) -> ChatCompletion:
    whole = await running.reader.collect()
    message: ReplyMessage = {"role": "assistant", "content": whole.content}
    if whole.reasoning:
        message["reasoning_content"] = whole.reasoning
    if whole.calls:
        message["content"] = whole.content or None
        message["tool_calls"] = [tool_call(call) for call in whole.calls]
    model, collected = running.model, running.reader.collected
    logprobs = chat_logprobs(model.engine.tokenizer, whole.logprobs, LazyList) if asked.logprobs else None
    return {
        "id": make_id("chatcmpl"),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model.name,
        "choices": [{"index": 0, "message": message, "logprobs": logprobs, "finish_reason": collected.finish_reason}],
        "usage": usage_of(collected),
        "timings": timings_of(collected),
    }


async def _events(running: Running, asked: ChatRequest) -> AsyncIterator[bytes]:
    """The role, the pieces, why it ended, and the usage if it was asked for."""
    chunks = _Chunks(running.model, asked)
    yield chunks.event({"role": "assistant", "content": ""})
    calls = 0
    async for piece in running.reader.pieces():
        yield chunks.event(_delta(piece, calls), piece.logprobs, sources=piece.sources)
        calls += len(piece.segment.calls)
    collected = running.reader.collected
    yield chunks.event({}, (), collected.finish_reason, timings=timings_of(collected))
    if chunks.has_usage:
        yield chunks.usage_event(collected)
    yield DONE


def _delta(piece: Piece, calls: int) -> dict[str, Any]:
    """What a piece adds to the message, which has ``calls`` tool calls so far."""
    segment = piece.segment
    if segment.kind == "tool_calls":
        made = [tool_call(call) | {"index": calls + number} for number, call in enumerate(segment.calls)]
        return {"tool_calls": made}
    if segment.kind == "hidden":
        return {}
    return {"reasoning_content" if segment.kind == "reasoning" else "content": segment.text}


class _Chunks:
    """The events of one stream, which share an id."""

    def __init__(self, model: ServedModel, asked: ChatRequest) -> None:
        self.has_usage = bool(asked.stream_options and asked.stream_options.include_usage)
        self._has_logprobs, self._tokenizer = bool(asked.logprobs), model.engine.tokenizer
        self._base: dict[str, Any] = {
            "id": make_id("chatcmpl"),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model.name,
        }
        if self.has_usage:
            self._base["usage"] = None

    def event(
        self,
        delta: dict[str, Any],
        logprobs: Sequence[TokenLogprob] = (),
        finish_reason: str | None = None,
        **more: Any,
    ) -> bytes:
        """One chunk; ``more`` are ``sources`` of its text and ``timings``, None for none."""
        choice: dict[str, Any] = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        if self._has_logprobs and logprobs:
            choice["logprobs"] = chat_logprobs(self._tokenizer, logprobs)
        if more.get("sources") is not None:
            choice["token_sources"] = more["sources"]
        timings = {"timings": more["timings"]} if "timings" in more else {}
        return event({**self._base, "choices": [choice], **timings})

    def usage_event(self, collected: Collected) -> bytes:
        """The last chunk, which has no choices."""
        end = {"choices": [], "usage": usage_of(collected), "timings": timings_of(collected)}
        return event({**self._base, **end})
