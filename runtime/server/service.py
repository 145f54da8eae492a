"""What the routes share: models, limits, metrics, and the way from a request to a running answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import dataclass, field
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request

from export.manifest import PocketspecError
from runtime.engine import TextChunk
from runtime.process.allocator import give_back
from runtime.server.checking import parse_body, read_body
from runtime.server.errors import ApiError
from runtime.server.metrics import Metrics
from runtime.server.prepare import Prepared
from runtime.server.reading import Reader
from runtime.server.request_memory import (
    AnswerShare,
    AnswerSize,
    RequestMemory,
    RequestRoom,
    RequestShare,
    parsed_bytes,
    token_bytes,
)
from runtime.server.requests.base import Asked, Strict
from runtime.server.served import ServedModel, ServedModels
from runtime.server.worker import Job

_Body = TypeVar("_Body", bound=Strict)
_Form = TypeVar("_Form", bound=Asked)
_T = TypeVar("_T")
# What programs on this machine call it. Another name in a request means that a web page was led here (DNS rebinding).
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1", "[::1]")
# Threads for prompts, templates and plans.
_THREADS = 4
# The largest body of a request that asks for no answer.
_MOST_SETTING_BYTES = 4096
_SHORTER = "send a shorter one, or start the server with a larger --max-body"
# Preparing a request whose body is larger leaves free memory behind that the system gets back, in a few milliseconds.
_LARGE_BODY_BYTES = 8192


@dataclass(frozen=True)
class Settings:
    """``memory`` for requests, whose bodies must arrive within ``body_seconds``. ``api_key`` None: nobody is asked.

    ``origins`` are those of web pages that may use the server (CORS). ``hosts`` are the names that requests may call it
    by; None: any.
    """

    memory: RequestMemory
    body_seconds: float = 30.0
    api_key: str | None = None
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] | None = None


@dataclass
class Service:
    """One server's state; ``of`` finds it."""

    models: ServedModels
    settings: Settings
    metrics: Metrics = field(init=False)
    answers: RequestRoom = field(init=False)
    _threads: CapacityLimiter = field(init=False)
    _bodies: RequestRoom = field(init=False)
    _waiting: RequestRoom = field(init=False)
    _preparing: asyncio.Lock = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.models)
        self._threads = CapacityLimiter(_THREADS)
        memory = self.settings.memory
        self._bodies = RequestRoom(memory.reading, "are being read", _SHORTER)
        self._waiting = RequestRoom(memory.waiting, "wait", _SHORTER)
        self.answers = RequestRoom(memory.answers, "have answers to read", "ask for fewer tokens or logprobs")
        self._preparing = asyncio.Lock()

    @staticmethod
    def of(request: Request) -> Service:
        """The service that a request was sent to."""
        service: Service = request.app.state.service
        return service

    async def in_thread(self, work: Callable[[], _T]) -> _T:
        """The result of ``work``, which would keep the event loop waiting."""
        return await to_thread.run_sync(work, limiter=self._threads)

    async def read(self, request: Request, kind: type[_Body]) -> _Body:
        """The checked body of a short request."""
        async with self._body(request, min(_MOST_SETTING_BYTES, self.settings.memory.max_body_bytes)) as body:
            return await self.in_thread(lambda: parse_body(body, kind))

    async def prepare(
        self,
        request: Request,
        kind: type[_Form],
        prepare: Callable[[ServedModel, _Form, str], Prepared],
    ) -> tuple[_Form, Prepared, RequestShare]:
        """The checked body, the work that it asks for, and what both take of memory, to be released at the end.

        One request at a time: parsing and encoding take several times what a request has.
        """
        host = request.client.host if request.client else ""

        def make(body: bytearray) -> tuple[_Form, Prepared]:
            asked = parse_body(body, kind)
            return asked, prepare(self.models.find(asked.model), asked, host)

        async with self._body(request, self.settings.memory.max_body_bytes) as body, self._preparing:
            try:
                asked, prepared = await self.in_thread(lambda: make(body))
            except PocketspecError as error:
                raise error.with_traceback(None) from None  # its frames hold what was parsed
            finally:
                if len(body) > _LARGE_BODY_BYTES:
                    await self.in_thread(give_back)
            kept = parsed_bytes(body) + token_bytes(len(prepared.work.tokens))
            return asked, prepared, self._waiting.take(kept)

    def _body(self, request: Request, limit: int) -> AbstractAsyncContextManager[bytearray]:
        memory = self.settings.memory
        return read_body(request, limit, memory.most_values, self.settings.body_seconds, self._bodies)


class Running:
    """An answer from its place in the queue until its client has all of it.

    ``share``: what the request takes of memory until then. ``repeated_bytes``: so much of it is in the reply.
    """

    def __init__(
        self,
        service: Service,
        prepared: Prepared,
        share: RequestShare,
        token_sources: bool = False,
        repeated_bytes: int = 0,
    ) -> None:
        self.model = prepared.model
        self._service, self._request_share, self._is_over = service, share, False
        with ExitStack() as undo:
            undo.callback(share.release)
            self._answer_share = AnswerShare(service.answers, _size_of(prepared, token_sources, repeated_bytes))
            undo.callback(self._answer_share.release)
            self.reader = Reader(prepared, self._answer_share, token_sources)
            self._job = Job(prepared.work, prepared.client, self._receive)
            self.model.worker.submit(self._job)
            undo.pop_all()

    def end(self) -> None:
        """Ends the answer if it is not over, and counts it, once. What came of it can still be read."""
        if not self._is_over:
            self._is_over = True
            self.model.worker.cancel(self._job)
            self._service.metrics.count_answer(self.model, self.reader.collected)

    def drop(self) -> None:
        """Ends the answer, of which nothing more will be read."""
        self.end()
        self.reader.drop()
        self._answer_share.fit(0, 0, is_over=True)

    def release(self) -> None:
        """Drops the answer; nothing is left of the reply either."""
        self.drop()
        self._answer_share.release()
        self._request_share.release()

    def _receive(self, event: TextChunk | BaseException | None) -> None:
        try:
            self.reader.receive(event)
        except ApiError as error:
            self._job.cancel(error)


def _size_of(prepared: Prepared, token_sources: bool, repeated_bytes: int) -> AnswerSize:
    """The most that the answer can become."""
    work = prepared.work
    room = prepared.model.engine.capacity - len(work.tokens)
    most = room if work.max_new_tokens is None else min(work.max_new_tokens, room)
    return AnswerSize(most, work.logprobs, token_sources, repeated_bytes)
