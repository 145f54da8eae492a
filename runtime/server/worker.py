"""One thread that answers with one engine, and the jobs it is given.

The engine is used by this thread alone, so answers never meet. What happens in an answer is handed to the event loop of
the request, which never waits for the engine.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

from runtime.constraints.request import Constrained
from runtime.decoding.sampling import SamplingParams
from runtime.engine import Engine, TextChunk
from runtime.server.errors import ApiError, shutting_down
from runtime.server.fair_queue import FairQueue, QueueClosedError, QueueFullError
from runtime.server.request_memory import RETRY_SECONDS
from runtime.speculation.request import Speculation
from runtime.turns import Answer


@dataclass(frozen=True)
class Work:
    """What an engine is asked for; the fields are those of ``Engine.generate``.

    ``raw``: the text of the prompt is continued, not answered.
    """

    tokens: list[int]
    sampling: SamplingParams
    speculation: Speculation | None = None
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()
    raw: bool = False
    ignore_eos: bool = False
    visible_tokens: tuple[str, ...] = ()
    logprobs: int | None = None
    constraint: Constrained | None = None

    def begin(self, engine: Engine) -> Answer[TextChunk]:
        """The answer of ``engine``."""
        settings: dict[str, Any] = {name: value for name, value in vars(self).items() if name != "tokens"}
        return engine.generate(self.tokens, **settings)


class Job:
    """One piece of work for a ``client``.

    ``receive`` is called in the event loop that made the job, soon after each chunk was made, and at the end with what
    ended the answer early, or None. It must not wait: what it does not keep is gone.
    """

    def __init__(
        self, work: Work, client: Hashable, receive: Callable[[TextChunk | BaseException | None], None]
    ) -> None:
        self.work, self.client = work, client
        self._loop, self._receive = asyncio.get_running_loop(), receive
        self._lock = threading.Lock()
        self._answer: Answer[TextChunk] | None = None
        self.is_cancelled = False
        self._error: BaseException | None = None

    def begin(self, engine: Engine) -> Answer[TextChunk] | None:
        """Begins the answer; None if the job was cancelled before."""
        if self.is_cancelled:
            return None
        answer = self.work.begin(engine)  # may take long, so without the lock
        with self._lock:
            self._answer = answer
            if self.is_cancelled:
                answer.cancel()
        return answer

    def cancel(self, error: BaseException | None = None) -> None:
        """Ends the answer at its next forward, without waiting. ``error`` is what its receiver gets."""
        with self._lock:
            self.is_cancelled, self._error = True, error
            if self._answer is not None:
                self._answer.cancel()

    def put(self, chunk: TextChunk) -> None:
        """Hands a chunk to the receiver."""
        self._send(chunk)

    def end(self, error: BaseException | None = None) -> None:
        """Ends the chunks, with ``error`` or that of ``cancel`` if there is one."""
        self._send(error or self._error)

    def _send(self, event: TextChunk | BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody reads
            self._loop.call_soon_threadsafe(self._receive, event)


class Worker:
    """Answers jobs with ``engine``, one after the other; at most ``limit`` wait."""

    def __init__(self, engine: Engine, limit: int, name: str) -> None:
        self._engine, self._name = engine, name
        self.queue: FairQueue[Job] = FairQueue(limit)
        self._current: Job | None = None
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name=f"pocketspec-{name}")

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether jobs are answered."""
        return self._thread.is_alive()

    @property
    def is_busy(self) -> bool:
        """Whether an answer is being given."""
        return self._current is not None

    def submit(self, job: Job) -> None:
        """Puts a job into the queue; ApiError 429 when that is full, 503 when the server stops."""
        try:
            self.queue.put(job.client, job)
        except QueueClosedError:
            raise shutting_down() from None
        except QueueFullError:
            raise ApiError(
                f"{self.queue.limit} requests for {self._name} wait already, the most that may; try again later",
                status=429,
                code="queue_full",
                headers={"retry-after": str(RETRY_SECONDS)},
            ) from None

    def cancel(self, job: Job) -> None:
        """Ends ``job`` wherever it is: in the queue, or at the next forward of its answer."""
        job.cancel()
        if self.queue.remove(job.client, job):
            job.end()

    def stop(self) -> None:
        """Refuses what waits and ends the running answer, without waiting for its step."""
        self._is_stopped = True
        for job in self.queue.close():
            job.end(shutting_down())
        if (current := self._current) is not None:
            current.cancel(shutting_down())

    def join(self) -> None:
        """Waits until the thread has ended, after ``stop``."""
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while (job := self.queue.take()) is not None:
            self._current = job
            if self._is_stopped:  # it was taken just before
                job.cancel(shutting_down())
            try:
                self._answer(job)
            except Exception as error:  # of one answer: it must not end the others
                job.end(error)
            else:
                job.end()
            finally:
                self._current = None

    def _answer(self, job: Job) -> None:
        answer = job.begin(self._engine)
        if answer is None:
            return
        with closing(answer):
            for chunk in answer:
                job.put(chunk)
