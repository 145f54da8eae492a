"""``POST /v1/chat/completions``."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from runtime.server.prepare import prepare_chat
from runtime.server.reading import Collected, Piece
from runtime.server.replies import ChatCompletion, ReplyMessage, make_id, timings_of, tool_call, usage_of
from runtime.server.requests.chat import ChatRequest
from runtime.server.service import Running, Service
from runtime.server.streams import DONE, EventStream, event, while_connected


async def chat_completions(request: Request) -> Response:
    """Answers a conversation, at once or in a stream."""
    service = Service.of(request)
    asked, prepared = await service.prepare(request, ChatRequest, prepare_chat)
    running = Running(service, prepared, asked.token_sources)
    if asked.stream:
        return EventStream(_events(running, asked), running.release)
    try:
        collected = await while_connected(request, running.reader.collect())
    finally:
        running.release()
    return JSONResponse(_reply(running.model.name, collected))


def _reply(model: str, collected: Collected) -> ChatCompletion:
    assert collected.last is not None
    message: ReplyMessage = {"role": "assistant", "content": collected.content}
    if collected.reasoning:
        message["reasoning_content"] = collected.reasoning
    if collected.calls:
        message["content"] = collected.content or None
        message["tool_calls"] = [tool_call(call) for call in collected.calls]
    return {
        "id": make_id("chatcmpl"),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": collected.finish_reason}],
        "usage": usage_of(collected.last.stats),
        "timings": timings_of(collected),
    }


async def _events(running: Running, asked: ChatRequest) -> AsyncIterator[str]:
    """The role, the pieces, why it ended, and the usage if it was asked for."""
    chunk = _Chunks(running.model.name, bool(asked.stream_options and asked.stream_options.include_usage))
    yield chunk.event({"role": "assistant", "content": ""})
    calls = 0
    async for piece in running.reader.pieces():
        delta = _delta(piece, calls)
        calls += len(piece.segment.calls)
        yield chunk.event(delta, sources=piece.sources)
    collected = running.reader.collected
    yield chunk.event({}, finish_reason=collected.finish_reason, timings=timings_of(collected))
    if chunk.has_usage and collected.last is not None:
        yield chunk.usage_event(collected)
    yield DONE


def _delta(piece: Piece, calls: int) -> dict[str, Any]:
    """What a piece adds to the message, which has ``calls`` tool calls so far."""
    segment = piece.segment
    if segment.kind == "tool_calls":
        made = [tool_call(call) | {"index": calls + number} for number, call in enumerate(segment.calls)]
        return {"tool_calls": made}
    return {"reasoning_content" if segment.kind == "reasoning" else "content": segment.text}


class _Chunks:
    """The events of one stream, which share an id."""

    def __init__(self, model: str, has_usage: bool) -> None:
        self.has_usage = has_usage
        self._base = {
            "id": make_id("chatcmpl"),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }
        if has_usage:
            self._base["usage"] = None

    def event(
        self, delta: dict[str, Any], finish_reason: str | None = None, sources: Any = None, timings: Any = None
    ) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        if sources is not None:
            choice["token_sources"] = sources
        return event(self._base | {"choices": [choice]} | ({} if timings is None else {"timings": timings}))

    def usage_event(self, collected: Collected) -> str:
        assert collected.last is not None
        return event(
            self._base | {"choices": [], "usage": usage_of(collected.last.stats), "timings": timings_of(collected)}
        )
