"""What the routes share: models, limits, metrics, and the way from a request to a running answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request

from runtime.server.checking import parse_body, read_body
from runtime.server.metrics import Metrics
from runtime.server.prepare import Prepared
from runtime.server.reading import Reader
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


@dataclass(frozen=True)
class Settings:
    """``max_body_bytes`` of a request, which must arrive within ``body_seconds``. ``api_key`` None: nobody is asked.

    ``origins`` are those of web pages that may use the server (CORS). ``hosts`` are the names that requests may call it
    by; None: any.
    """

    max_body_bytes: int = 1_000_000
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
    _threads: CapacityLimiter = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.models)
        self._threads = CapacityLimiter(_THREADS)

    @staticmethod
    def of(request: Request) -> Service:
        """The service that a request was sent to."""
        service: Service = request.app.state.service
        return service

    async def in_thread(self, work: Callable[[], _T]) -> _T:
        """The result of ``work``, which would keep the event loop waiting."""
        return await to_thread.run_sync(work, limiter=self._threads)

    async def read(self, request: Request, kind: type[_Body]) -> _Body:
        """The checked body of a request."""
        body = await read_body(request, self.settings.max_body_bytes, self.settings.body_seconds)
        return await self.in_thread(lambda: parse_body(body, kind))

    async def prepare(
        self,
        request: Request,
        kind: type[_Form],
        prepare: Callable[[ServedModel, _Form, str], Prepared],
    ) -> tuple[_Form, Prepared]:
        """The checked body, and the work that it asks for."""
        asked = await self.read(request, kind)
        model = self.models.find(asked.model)
        host = request.client.host if request.client else ""
        return asked, await self.in_thread(lambda: prepare(model, asked, host))


class Running:
    """An answer from its place in the queue to its end; ``release`` ends it, wherever it is."""

    def __init__(self, service: Service, prepared: Prepared, token_sources: bool = False) -> None:
        self.model = prepared.model
        self._service = service
        self._job = Job(prepared.work, prepared.client)
        self.reader = Reader(prepared, self._job, token_sources)
        self.model.worker.submit(self._job)

    def release(self) -> None:
        """Ends the answer if it is not over, and counts it."""
        self.model.worker.cancel(self._job)
        self._service.metrics.count_answer(self.model, self.reader.collected)
