"""Server-sent events, and the end of an answer whose client has gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from runtime.server.errors import ApiError, as_api_error

_T = TypeVar("_T")

DONE = "data: [DONE]\n\n"
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


def event(data: Any, name: str | None = None) -> str:
    """One event with JSON data."""
    line = "" if name is None else f"event: {name}\n"
    return f"{line}data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


class EventStream(StreamingResponse):
    """Sends ``events``; however that ends, ``release`` is called. An error is the last event."""

    def __init__(self, events: AsyncIterator[str], release: Callable[[], None]) -> None:
        super().__init__(_with_error(events), media_type="text/event-stream", headers=_HEADERS)
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ``StreamingResponse``, which stops when the client goes away."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._release()


async def _with_error(events: AsyncIterator[str]) -> AsyncIterator[str]:
    try:
        async for line in events:
            yield line
    except Exception as error:  # the status has been sent, so the stream itself must say it
        yield event(as_api_error(error).body())


async def while_connected(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """The result of ``work``, which is cancelled if the client goes away; then ApiError 499, which nobody reads."""
    task, gone = asyncio.create_task(work), asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError("the client went away", status=499, code="disconnected")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
