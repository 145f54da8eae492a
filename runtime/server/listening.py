"""The socket, and uvicorn on it: starts, announces where it listens, and stops at a signal."""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from export.manifest import PocketspecError
from runtime.server.connections import Connection

# Seconds that a connection may be idle between two requests, and how many there may be.
_IDLE_SECONDS, _MOST_CONNECTIONS = 60, 512
# Seconds that open replies get to say that the server stops.
_STOP_SECONDS = 5
_BACKLOG = 128
_LAST_PORT = 65_535


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
    """Serves until SIGINT or SIGTERM; then ``stop_work`` is called, and what is open gets a moment to end."""
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

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stop_work()
        await super().shutdown(sockets)


def _ignore(number: int, frame: FrameType | None) -> None:
    pass
