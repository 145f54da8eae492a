"""Clients that do not read: their answers take what is planned, and nobody waits for them; nothing is lost of these."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from memory.meter import read_memory
from runtime.server import connections, streams
from runtime.server.connections import Connection
from runtime.server.request_memory import AnswerSize
from tests.runtime.server.conftest import Post
from tests.runtime.server.serving import Server, begin
from tests.runtime.server.test_request_memory import planned_bytes

LIMIT_SECONDS = 60.0  # a hang is a failure
CLIENTS, TOKENS, TOP = 20, 100, 20
MESSAGES = [{"role": "user", "content": "x"}]
COMMON = {"max_tokens": TOKENS, "ignore_eos": True}
# A path, a body, and how many log probabilities each token has.
ASKED: dict[str, tuple[str, dict[str, Any], int | None]] = {
    "completions": ("/completions", COMMON | {"prompt": "x", "logprobs": TOP, "stream": True}, TOP),
    "chat": (
        "/chat/completions",
        COMMON | {"messages": MESSAGES, "logprobs": True, "top_logprobs": TOP, "stream": True},
        TOP,
    ),
    "no stream": ("/completions", COMMON | {"prompt": "x", "logprobs": TOP}, TOP),
    "responses": ("/responses", {"input": "x", "max_output_tokens": TOKENS, "stream": True}, None),
}


def rest(connection: socket.socket) -> bytes:
    """All of a reply's body, whose parts were sent as chunks."""
    reply = b"".join(iter(lambda: connection.recv(65_536), b""))
    head, _, chunks = reply.partition(b"\r\n\r\n")
    assert b" 200 " in head
    assert b"chunked" in head
    body = b""
    while chunks:
        size, _, chunks = chunks.partition(b"\r\n")
        body += chunks[: int(size, 16)]
        chunks = chunks[int(size, 16) + 2 :]
    return body


def answer(body: bytes) -> tuple[str, list[Any]]:
    """The text and the log probabilities of a reply, whether it is a stream or not, and however many events it has."""
    lines = [body] if body.startswith(b"{") else [line[6:] for line in body.split(b"\n") if line.startswith(b"data: {")]
    text, logprobs = "", []
    for data in map(json.loads, lines):
        text += data["delta"] if data.get("type") == "response.output_text.delta" else ""
        for choice in data.get("choices", ()):
            text += choice.get("text") or choice.get("delta", {}).get("content", "")
            found = choice["logprobs"] or {}
            columns = [found.get(name, ()) for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")]
            logprobs += found.get("content") or zip(*columns, strict=True)
    return text, logprobs


@pytest.mark.parametrize("name", ASKED)
def test_many_clients_that_do_not_read_take_what_is_planned_and_lose_nothing(
    server: Server, post: Post, name: str
) -> None:
    path, body, logprobs = ASKED[name]
    with begin(server.port, path, body) as connection:
        expected = answer(rest(connection))
    assert expected[0]
    assert len(expected[1]) == (0 if logprobs is None else TOKENS)
    before = anonymous(server)
    with ExitStack() as stack:
        connections = [stack.enter_context(begin(server.port, path, body)) for _ in range(CLIENTS)]
        with watched(server) as most:
            # It waits its turn behind all of them, on the same engine.
            assert post("/completions", {"prompt": "y", "max_tokens": 1})[0] == 200
        if before is not None:
            assert max(most) <= planned_bytes(post)
            assert max(most) - before <= CLIENTS * AnswerSize(TOKENS, logprobs).nbytes(TOKENS, 0)
        for connection in connections:
            assert answer(rest(connection)) == expected


def anonymous(server: Server) -> int | None:
    used = read_memory(server.process.pid)
    return None if used is None else used.anonymous_bytes


@contextmanager
def watched(server: Server) -> Iterator[list[int]]:
    """The anonymous bytes of the server, every 2 ms."""
    most, is_over = [0], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.002):
            most[0] = max(most[0], anonymous(server) or 0)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        is_over.set()
        watcher.join()


def test_a_stream_that_is_not_read_in_time_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client takes the first event, nothing for a while, and then the last one."""
    monkeypatch.setattr(streams, "READ_SECONDS", 0.01)
    calls: list[str] = []
    running: Any = SimpleNamespace(drop=lambda: calls.append("drop"), release=lambda: calls.append("release"))
    taken: list[bytes] = []

    async def events() -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"%d" % number

    async def send(message: Any) -> None:
        if message.get("body") == b"1":
            await asyncio.Event().wait()
        taken.append(message.get("body", b""))

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def main() -> None:
        stream = streams.EventStream(events(), running)
        await asyncio.wait_for(stream({"type": "http"}, receive, send), LIMIT_SECONDS)

    asyncio.run(main())
    assert calls == ["drop", "release"]
    assert taken[:2] == [b"", b"0"]
    error = json.loads(taken[2].removeprefix(b"data: "))["error"]
    assert (len(taken), error["code"]) == (3, "client_too_slow")


def test_a_connection_whose_client_reads_nothing_holds_little_and_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the reply is: one part of it waits, and the application learns that its client is gone."""
    monkeypatch.setattr(connections, "UNREAD_SECONDS", 0.05)
    part, held = b"x" * 10_000, [0]

    async def main() -> None:
        gone = asyncio.Event()
        made: list[Connection] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            sending = asyncio.create_task(send_for_ever(send))
            while (await receive())["type"] != "http.disconnect":
                pass
            sending.cancel()
            gone.set()

        async def send_for_ever(send: Any) -> None:
            while not gone.is_set():
                await send({"type": "http.response.body", "body": part, "more_body": True})
                held.append(made[0].transport.get_write_buffer_size())

        def connect() -> Connection:
            made.append(Connection(config=config, server_state=ServerState(), app_state={}))
            return made[-1]

        config = uvicorn.Config(app, http=Connection, lifespan="off", log_config=None)
        config.load()
        async with await asyncio.get_running_loop().create_server(connect, "127.0.0.1", 0) as listening:
            with socket.create_connection(listening.sockets[0].getsockname()) as client:
                client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                await asyncio.wait_for(gone.wait(), LIMIT_SECONDS)

    asyncio.run(main())
    assert 0 < max(held) < 2 * len(part)


def test_a_connection_whose_client_reads_slowly_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is closed at the first look that finds as much as the one before."""
    sizes, looks = iter([900, 800, 800, 799, 799, 799]), []

    class Loop:
        def call_later(self, seconds: float, look: Any, *values: Any) -> Any:
            looks.append(lambda: look(*values))
            return SimpleNamespace(cancel=lambda: None)

    aborted: list[int] = []
    connection = Connection.__new__(Connection)
    connection.loop, connection.flow = Loop(), SimpleNamespace(pause_writing=lambda: None)  # type: ignore[assignment]
    connection.transport = SimpleNamespace(  # type: ignore[assignment]
        get_write_buffer_size=lambda: next(sizes), abort=lambda: aborted.append(len(looks))
    )
    connection.pause_writing()
    while len(looks) < 3:
        looks[-1]()
    assert aborted == []
    looks[-1]()
    assert aborted == [3]
