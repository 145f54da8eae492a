"""One engine, many jobs: turns, cancellation counted in forwards, errors of one job alone, an end without waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memory import Request
from runtime.decoding.sampling import SamplingParams
from runtime.engine import Engine, TextChunk
from runtime.server.errors import ApiError
from runtime.server.worker import Job, Work, Worker
from runtime.speculation.request import PLAIN

LONG = "A prompt that takes several chunks to read. " * 8


@pytest.fixture(scope="module")
def engine(random_bundle: Path) -> Iterator[Engine]:
    with Engine.open(random_bundle, Request(threads=1, prefill_chunk=16)) as opened:
        yield opened


def work(engine: Engine, prompt: str, tokens: int = 5, **more: Any) -> Work:
    return Work(engine.encode(prompt, raw=True), SamplingParams(), PLAIN, tokens, raw=True, ignore_eos=True, **more)


def with_worker(engine: Engine, run: Callable[[Worker], Awaitable[None]], limit: int = 10) -> None:
    async def main() -> None:
        worker = Worker(engine, limit, "tiny")
        worker.start()
        try:
            await asyncio.wait_for(run(worker), 60)
        finally:
            worker.stop()
            await asyncio.to_thread(worker.join)

    asyncio.run(main())


class QueuedJob(Job):
    """A job whose chunks are read one after the other."""

    def __init__(self, work: Work, client: str) -> None:
        self._events: asyncio.Queue[TextChunk | BaseException | None] = asyncio.Queue()
        super().__init__(work, client, self._events.put_nowait)

    async def chunks(self) -> AsyncIterator[TextChunk]:
        while (event := await self._events.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event


async def text_of(job: QueuedJob) -> str:
    return "".join([chunk.text async for chunk in job.chunks()])


def test_jobs_of_many_clients_get_their_own_answers_in_turn(engine: Engine) -> None:
    prompts = ["one", "two", "three", "four"]
    alone = {prompt: "".join(chunk.text for chunk in work(engine, prompt).begin(engine)) for prompt in prompts}
    order: list[str] = []

    async def run(worker: Worker) -> None:
        first = QueuedJob(work(engine, LONG, 30), "a")
        worker.submit(first)
        await anext(first.chunks())
        jobs = {name: QueuedJob(work(engine, name), "b" if name == "four" else "a") for name in prompts}
        for job in jobs.values():
            worker.submit(job)

        async def answer(name: str) -> None:
            assert await text_of(jobs[name]) == alone[name]
            order.append(name)

        await asyncio.gather(text_of(first), *map(answer, prompts))

    with_worker(engine, run)
    assert order == ["one", "four", "two", "three"]


@pytest.mark.parametrize("when", ["reading", "decoding"])
def test_a_cancelled_job_runs_no_further_forward(engine: Engine, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cancelled within its second forward, of the prompt or of the answer; the check before the third ends it."""
    prompt = LONG if when == "reading" else "x"
    forwards: list[int] = []
    inner = engine.target.before_forward

    async def run(worker: Worker) -> None:
        job = QueuedJob(work(engine, prompt, 50), "a")

        def count() -> None:
            inner()
            forwards.append(1)
            if len(forwards) == 2:
                job.cancel()

        monkeypatch.setattr(engine.target, "before_forward", count)
        worker.submit(job)
        chunks: list[TextChunk] = [chunk async for chunk in job.chunks()]
        assert len(chunks) == (0 if when == "reading" else 2)
        monkeypatch.undo()
        after = QueuedJob(work(engine, "two"), "a")
        worker.submit(after)
        assert len([chunk async for chunk in after.chunks()]) == 5

    engine.target.cache.rollback(0)
    with_worker(engine, run)
    assert len(forwards) == 2


def test_a_job_that_is_cancelled_in_the_queue_never_begins(engine: Engine) -> None:
    async def run(worker: Worker) -> None:
        first, second = QueuedJob(work(engine, LONG, 20), "a"), QueuedJob(work(engine, "x"), "b")
        worker.submit(first)
        await anext(first.chunks())
        worker.submit(second)
        worker.cancel(second)
        assert await text_of(second) == ""
        assert len(worker.queue) == 0
        await text_of(first)

    with_worker(engine, run)


def test_an_error_ends_its_own_job_alone(engine: Engine) -> None:
    async def run(worker: Worker) -> None:
        bad = QueuedJob(Work([10**6], SamplingParams(), PLAIN), "a")
        worker.submit(bad)
        with pytest.raises(ValueError, match="beyond the model's vocabulary"):
            await text_of(bad)
        good = QueuedJob(work(engine, "x"), "a")
        worker.submit(good)
        assert await text_of(good)

    with_worker(engine, run)


def test_a_full_queue_and_a_stopped_server_refuse_with_numbers(engine: Engine) -> None:
    async def run(worker: Worker) -> None:
        running = QueuedJob(work(engine, LONG, 100), "a")
        worker.submit(running)
        await anext(running.chunks())
        waiting = QueuedJob(work(engine, "x"), "b")
        worker.submit(waiting)
        with pytest.raises(ApiError, match="1 requests for tiny wait already") as full:
            worker.submit(QueuedJob(work(engine, "x"), "c"))
        assert (full.value.status, full.value.headers) == (429, {"retry-after": "5"})
        worker.stop()
        for job in (running, waiting):
            with pytest.raises(ApiError, match="shutting down") as stopped:
                await text_of(job)
            assert stopped.value.status == 503
        with pytest.raises(ApiError, match="shutting down"):
            worker.submit(QueuedJob(work(engine, "x"), "c"))

    with_worker(engine, run, limit=1)
