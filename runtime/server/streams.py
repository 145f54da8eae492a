"""Replies to clients that take their time, and the end of an answer whose client has gone or does not read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from runtime.server.errors import ApiError, as_api_error
from runtime.server.json_parts import dumps, json_parts
from runtime.server.service import Running

_T = TypeVar("_T")

DONE = b"data: [DONE]\n\n"
# Seconds in which a client must take the next event.
READ_SECONDS = 60.0
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


def event(data: Any, name: str | None = None) -> bytes:
    """One event with JSON data."""
    line = "" if name is None else f"event: {name}\n"
    return f"{line}data: {dumps(data)}\n\n".encode()


class _AnswerResponse(StreamingResponse):
    """Sends ``parts`` of an answer as its client takes them; however that ends, ``running`` is released."""

    def __init__(self, parts: AsyncIterator[bytes], running: Running, **more: Any) -> None:
        super().__init__(parts, **more)
        self._running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ``StreamingResponse``, which stops when the client goes away."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._running.release()


class EventStream(_AnswerResponse):
    """Server-sent ``events``. An error is the last one, also if the client does not take an event in time."""

    def __init__(self, events: AsyncIterator[bytes], running: Running) -> None:
        super().__init__(_with_error(events), running, media_type="text/event-stream", headers=_HEADERS)

    async def stream_response(self, send: Send) -> None:
        """See ``StreamingResponse``."""

        async def send_in_time(message: Any) -> None:
            async with asyncio.timeout(READ_SECONDS):
                await send(message)

        try:
            await super().stream_response(send_in_time)
        except TimeoutError:
            self._running.drop()
            await send({"type": "http.response.body", "body": event(_not_read().body()), "more_body": False})


async def _with_error(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for each in events:
            yield each
    except Exception as error:  # the status has been sent, so the stream itself must say it
        yield event(as_api_error(error).body())


def _not_read() -> ApiError:
    return ApiError(
        f"the answer ends here: its client took nothing of it for {READ_SECONDS:g} seconds",
        status=408,
        code="client_too_slow",
    )


async def whole_reply(request: Request, running: Running, work: Coroutine[Any, Any, Any]) -> Response:
    """The JSON value that ``work`` makes of the answer, when it is over."""
    try:
        value = await while_connected(request, work)
    except BaseException:
        running.release()
        raise
    running.end()
    return _AnswerResponse(_parts(value), running, media_type="application/json")


async def _parts(value: Any) -> AsyncIterator[bytes]:
    for part in json_parts(value):
        yield part
        await asyncio.sleep(0)  # others have their turn


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
