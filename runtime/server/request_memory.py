"""The memory that requests take before their answers begin: planned once, and refused beyond that.

A body is read, then it is parsed and its prompt encoded, and then the request waits for its turn. Bodies that are read,
and requests that wait, share so many bytes each; a single request at a time is parsed and encoded.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.server.errors import ApiError

# Seconds after which a client that was refused may try again: about the time of an answer.
RETRY_SECONDS = 5
# A body may have one JSON value for so many bytes that it may have. Values take long to parse, and memory: a million
# bytes of small ones would keep the event loop waiting for 25 ms.
BYTES_A_VALUE = 10
# Largest bodies that may be read at once, and that may wait.
_READ, _WAITING = 4, 4
# Bytes that parsing a body and making a prompt of it take for each byte that a body may have. Measured with pydantic
# 2.14: 11 (20,000 parts of a message), 10 (49,000 objects with names of their own), 3 (a text of emoji).
_PARSED = 18
# The most bytes that the tokenizers library takes for a byte of text while it encodes it. Measured with 0.23.1 and
# 200,000 characters: 140 (stories) to 210 (spaces); 295 where every other character begins another word.
_ENCODED = 300
# Bytes of text for each token of the context that there is always room for. Usual texts have 3 to 5.
_TEXT_A_TOKEN = 8
# Bytes of a token id: an integer of Python's, and its place in a list.
_TOKEN = 36
# Bytes of a JSON value as Python's objects, and of a character outside ASCII (at most; a text has its widest for all).
_VALUE, _WIDE = 190, 4


@dataclass(frozen=True)
class RequestMemory:
    """What there is for bodies of at most ``max_body_bytes`` with prompts for a ``context`` of so many tokens."""

    max_body_bytes: int
    context: int

    @property
    def most_values(self) -> int:
        """The most JSON values of a body."""
        return self.max_body_bytes // BYTES_A_VALUE

    @property
    def longest_text(self) -> int:
        """The most bytes of a prompt's text."""
        return self._preparing // _ENCODED

    @property
    def reading(self) -> int:
        """Bytes for bodies that are read."""
        return _READ * self.max_body_bytes

    @property
    def waiting(self) -> int:
        """Bytes for requests that wait for their answers, or get them."""
        return _WAITING * self.max_body_bytes + 2 * _TOKEN * self.context

    @property
    def nbytes(self) -> int:
        """All of it."""
        return self.reading + self._preparing + self.waiting

    @property
    def _preparing(self) -> int:
        return max(_PARSED * self.max_body_bytes, _ENCODED * _TEXT_A_TOKEN * self.context)


def count_values(body: bytes | bytearray) -> int:
    """As many JSON values as there may be in ``body``; brackets and commas in its texts count, too."""
    return body.count(b",") + body.count(b"[") + body.count(b"{")


def parsed_bytes(body: bytes | bytearray) -> int:
    """Bytes that the values of ``body`` take as Python's objects."""
    return len(body) * (1 if body.isascii() else _WIDE) + count_values(body) * _VALUE


def token_bytes(count: int) -> int:
    """Bytes that ``count`` token ids of a prompt take."""
    return count * _TOKEN


class RequestRoom:
    """``nbytes`` that requests share for ``what``, as in "are being read". For one thread, the event loop's."""

    def __init__(self, nbytes: int, what: str) -> None:
        self.nbytes, self._what = nbytes, what
        self.taken = 0

    def take(self, nbytes: int) -> RequestShare:
        """A share of so many bytes; ApiError 413 if there are not as many at all, 429 if others have them now."""
        if nbytes > self.nbytes:
            raise ApiError(
                f"the request takes {nbytes:,} bytes, and requests that {self._what} have {self.nbytes:,} together;"
                " send a shorter one, or start the server with a larger --max-body",
                status=413,
                code="request_too_large",
            )
        if nbytes > self.nbytes - self.taken:
            raise ApiError(
                f"requests that {self._what} take {self.taken:,} of {self.nbytes:,} bytes, and this one needs"
                f" {nbytes:,}; try again later",
                status=429,
                code="requests_too_large",
                headers={"retry-after": str(RETRY_SECONDS)},
            )
        return RequestShare(self, nbytes)


class RequestShare:
    """Bytes of ``room`` that are taken until ``release``, or until the end of a context."""

    def __init__(self, room: RequestRoom, nbytes: int) -> None:
        self._room, self._nbytes = room, nbytes
        room.taken += nbytes

    def __enter__(self) -> RequestShare:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Gives them back; later calls do nothing."""
        self._room.taken -= self._nbytes
        self._nbytes = 0
