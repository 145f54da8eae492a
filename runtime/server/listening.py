"""The socket, and uvicorn on it: starts, announces where it listens, and stops at a signal."""

from __future__ import annotations

import gc
import ipaddress
import logging
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn
from anyio import to_thread
from starlette.applications import Starlette

from export.manifest import PocketspecError
from runtime.server.connections import Connection

# Seconds that a connection may be idle between two requests, and how many there may be.
_IDLE_SECONDS, _MOST_CONNECTIONS = 60, 512
# Seconds that open replies get to say that the server stops.
_STOP_SECONDS = 5
_BACKLOG = 128
_LAST_PORT = 65_535
# Seconds after which a thread that computes lets others run: the event loop waits so long for threads that prepare
# prompts. Python's own 5 ms would be half of what the loop may be kept waiting.
_SWITCH_SECONDS = 0.0005


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on ``port`` of ``host`` (0: a free one); PocketspecError says why there is none."""
    if not 0 <= port <= _LAST_PORT:
        raise PocketspecError(f"--port {port}: ports are 0 to {_LAST_PORT}; 0 is a free one")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except socket.gaierror:
        raise PocketspecError(f"--host {host}: no address of this machine has that name") from None
    except OSError as error:
        raise PocketspecError(
            f"cannot listen on port {port} of {host}: {error.strerror}; pass another --port, or 0 for a free one"
        ) from None


def url_of(listener: socket.socket) -> str:
    """The address to reach ``listener`` at."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(app: Starlette, listener: socket.socket, stop_work: Callable[[], None]) -> None:
    """Serves until SIGINT or SIGTERM; then ``stop_work`` is called, and what is open gets a moment to end.

    It sets Python's switch interval, and takes what was loaded before out of garbage collections: both hold up the
    event loop, and the process has no other purpose.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    for name in ("uvicorn.error", "asyncio"):  # what clients do wrong, or that they are gone, is told to them alone
        logging.getLogger(name).setLevel(logging.ERROR)
    server = _Server(config, stop_work)
    # uvicorn raises a signal again when it has stopped; it is over by then.
    before = {number: signal.signal(number, _ignore) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, stop_work: Callable[[], None]) -> None:
        super().__init__(config)
        self._stop_work = stop_work

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await to_thread.run_sync(_nothing)  # imports what the first request would import, 20 ms
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stop_work()
        await super().shutdown(sockets)


def _nothing() -> None:
    pass


def _ignore(number: int, frame: FrameType | None) -> None:
    pass
