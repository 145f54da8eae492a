"""``POST /v1/completions``."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response

from runtime.server.json_parts import LazyList
from runtime.server.logprobs import text_logprobs
from runtime.server.prepare import prepare_completion
from runtime.server.replies import Completion, TextChoice, make_id, timings_of, usage_of
from runtime.server.requests.completions import CompletionRequest
from runtime.server.service import Running, Service
from runtime.server.streams import DONE, EventStream, event, whole_reply


async def completions(request: Request) -> Response:
    """Continues a text, at once or in a stream."""
    service = Service.of(request)
    asked, prepared, share = await service.prepare(request, CompletionRequest, prepare_completion)
    running = Running(service, prepared, share, asked.token_sources)
    reply = _empty(running.model.name)
    if asked.stream:
        return EventStream(_events(running, reply, asked), running)
    return await whole_reply(request, running, _whole(running, reply, asked))


async def _whole(running: Running, reply: Completion, asked: CompletionRequest) -> Completion:
    whole, collected = await running.reader.collect(), running.reader.collected
    choice = _choice(whole.content)
    choice["finish_reason"] = collected.finish_reason
    if asked.logprobs is not None:
        choice["logprobs"] = text_logprobs(running.model.engine.tokenizer, whole.logprobs, listed=LazyList)
    return reply | {"choices": [choice], "usage": usage_of(collected), "timings": timings_of(collected)}


async def _events(running: Running, base: Completion, asked: CompletionRequest) -> AsyncIterator[bytes]:
    """The pieces, why it ended, and the usage if it was asked for."""
    has_usage = bool(asked.stream_options and asked.stream_options.include_usage)
    tokenizer, offset = running.model.engine.tokenizer, 0
    if has_usage:
        base["usage"] = None
    async for piece in running.reader.pieces():
        choice = _choice(piece.segment.text)
        if piece.sources is not None:
            choice["token_sources"] = piece.sources
        if asked.logprobs is not None and piece.logprobs:
            choice["logprobs"] = logprobs = text_logprobs(tokenizer, piece.logprobs, offset)
            offset += sum(len(token) for token in logprobs["tokens"])
        yield event(base | {"choices": [choice]})
    collected = running.reader.collected
    end = _choice("")
    end["finish_reason"] = collected.finish_reason
    yield event(base | {"choices": [end], "timings": timings_of(collected)})
    if has_usage:
        yield event(base | {"usage": usage_of(collected), "timings": timings_of(collected)})
    yield DONE


def _empty(model: str) -> Completion:
    return {
        "id": make_id("cmpl"),
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": [],
    }


def _choice(text: str) -> TextChoice:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": None}
