"""A connection that sends at once and holds little, with time limits for clients that do not write or do not read.

uvicorn's own limit is for idle connections alone, and it holds 64 kB for each that does not read.
"""

from __future__ import annotations

import asyncio
import socket

from uvicorn.protocols.http.h11_impl import H11Protocol

# Seconds for the headers of a request, from the connection or from the first byte after an earlier reply.
HEADER_SECONDS = 10.0
# Seconds in which a client must take something of what is sent to it. Streams end earlier, and say so (``streams.py``).
UNREAD_SECONDS = 120.0
# Bytes that the system holds of what was sent and not read (Linux: twice as many, instead of up to 4 MB). With more of
# them it would take longer to see that a client reads slowly, but does.
_SYSTEM_BYTES = 65_536


class Connection(H11Protocol):
    """HTTP/1.1, closed if the headers of a request do not come in time, or if nothing of a reply is read."""

    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        # asyncio does so itself only for sockets that were made with the protocol's number. Otherwise a reply's second
        # part waits for the client's acknowledgement of the first, 40 ms.
        found = transport.get_extra_info("socket")
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SYSTEM_BYTES)
        transport.set_write_buffer_limits(high=0)  # a reply goes on when the system has all of its last part
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._stop_waiting()
        self._stop_watching()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Called when the system takes no more for now."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Called when it has taken all."""
        super().resume_writing()
        self._stop_watching()

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

    def _watch(self) -> None:
        self._unread = self.loop.call_later(UNREAD_SECONDS, self._require_less, self.transport.get_write_buffer_size())

    def _require_less(self, before: int) -> None:
        if self.transport.get_write_buffer_size() < before:
            self._watch()
        else:
            self.transport.abort()

    def _stop_watching(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
