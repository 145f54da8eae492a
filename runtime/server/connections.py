"""A connection that sends at once, with a time limit for the headers of a request: uvicorn's is for idle ones alone."""

from __future__ import annotations

import asyncio
import socket

from uvicorn.protocols.http.h11_impl import H11Protocol

# Seconds for the headers of a request, from the connection or from the first byte after an earlier reply.
HEADER_SECONDS = 10.0


class Connection(H11Protocol):
    """HTTP/1.1, closed if the headers of a request do not come in time."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        # asyncio does so itself only for sockets that were made with the protocol's number. Otherwise a reply's second
        # part waits for the client's acknowledgement of the first, 40 ms.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._stop_waiting()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Called for data that has come."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._stop_waiting()
        elif self._deadline is None and (before is None or before.response_complete):
            self._wait_for_headers()

    def _wait_for_headers(self) -> None:
        self._deadline = self.loop.call_later(HEADER_SECONDS, self.timeout_keep_alive_handler)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
