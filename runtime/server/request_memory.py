"""The memory that requests and their answers take: planned once, and refused beyond that.

A body is read, then it is parsed and its prompt encoded, then the request waits for its turn, and its answer waits to
be read. Bodies that are read, requests that wait, and answers share so many bytes each; a single request at a time is
parsed and encoded.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.server.errors import ApiError
from runtime.server.unread import MOST_TOKENS

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
# Bytes of an answer whose client reads nothing, without the text: its connection and tasks, and two events, one that is
# being sent and one that follows. Measured: see tests/runtime/server/test_unread_answers.py.
_ANSWER = 32_768
# Bytes for the text of a token, as UTF-8 (usual texts have 3 to 5), as JSON, and as sent; and for who proposed it.
_TEXT, _TEXT_COPIES, _SOURCE = 16, 3, 14
# Bytes of a log probability with its token while it waits, and in an event, of which there may be two.
_LOGPROB, _LOGPROB_EVENT = 13, 2 * 130
# Answers as long as the context with everything that can be asked for, and usual ones, that there is room for.
_LONG_ANSWERS, _ANSWERS, _MOST_LOGPROBS = 2, 128, 20


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
    def answers(self) -> int:
        """Bytes for answers that are given, or not read yet."""
        longest = AnswerSize(self.context, _MOST_LOGPROBS, has_sources=True).nbytes(self.context, 0)
        return _LONG_ANSWERS * longest + _ANSWERS * _ANSWER

    @property
    def nbytes(self) -> int:
        """All of it."""
        return self.reading + self._preparing + self.waiting + self.answers

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


@dataclass(frozen=True)
class AnswerSize:
    """What decides how much an answer of at most ``tokens`` takes until it is read; ``logprobs`` as in ``Work``.

    ``repeated_bytes`` are those of the request that its reply has, too.
    """

    tokens: int
    logprobs: int | None = None
    has_sources: bool = False
    repeated_bytes: int = 0

    def nbytes(self, tokens: int, text_bytes: int) -> int:
        """Bytes of ``tokens`` with so many bytes of text."""
        entries = 0 if self.logprobs is None else 1 + self.logprobs
        text = max(_TEXT * tokens, _TEXT_COPIES * text_bytes)
        rows = entries * (_LOGPROB * tokens + _LOGPROB_EVENT * MOST_TOKENS)
        sources = _SOURCE * tokens * self.has_sources
        return _ANSWER + text + rows + sources + _TEXT_COPIES * self.repeated_bytes


class RequestRoom:
    """``nbytes`` that requests share for ``what``, as in "are being read"; ``remedy`` is for one that takes more than
    all of them. For one thread, the event loop's."""

    def __init__(self, nbytes: int, what: str, remedy: str) -> None:
        self.nbytes, self._what, self._remedy = nbytes, what, remedy
        self.taken = 0

    def take(self, nbytes: int) -> RequestShare:
        """A share of so many bytes; see ``RequestShare.resize``."""
        share = RequestShare(self)
        share.resize(nbytes)
        return share

    def require(self, nbytes: int, free: int) -> None:
        """ApiError 413 if there are not ``nbytes`` at all, 429 if they are not ``free`` now."""
        if nbytes > self.nbytes:
            raise ApiError(
                f"the request takes {nbytes:,} bytes, and requests that {self._what} have {self.nbytes:,} together;"
                f" {self._remedy}",
                status=413,
                code="request_too_large",
            )
        if nbytes > free:
            raise ApiError(
                f"requests that {self._what} take {self.taken:,} of {self.nbytes:,} bytes, and this one needs"
                f" {nbytes:,}; try again later",
                status=429,
                code="requests_too_large",
                headers={"retry-after": str(RETRY_SECONDS)},
            )


class RequestShare:
    """Bytes of ``room`` that are taken until ``release``, or until the end of a context."""

    def __init__(self, room: RequestRoom) -> None:
        self._room, self._nbytes = room, 0

    def __enter__(self) -> RequestShare:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def resize(self, nbytes: int) -> None:
        """Takes so many bytes instead; ApiError 413 or 429 if the room does not have them, and then nothing changes."""
        self._room.require(nbytes, self._room.nbytes - self._room.taken + self._nbytes)
        self._room.taken += nbytes - self._nbytes
        self._nbytes = nbytes

    def release(self) -> None:
        """Gives them back; later calls do nothing."""
        self.resize(0)


class AnswerShare:
    """What an answer of ``size`` takes in ``room``: all that it can become, then what it became, then nothing."""

    def __init__(self, room: RequestRoom, size: AnswerSize) -> None:
        self._size, self._share = size, room.take(size.nbytes(size.tokens, 0))

    def fit(self, tokens: int, text_bytes: int, is_over: bool) -> None:
        """The answer has so many tokens and bytes of text; ApiError if longer texts than usual find no room."""
        self._share.resize(self._size.nbytes(tokens if is_over else self._size.tokens, text_bytes))

    def release(self) -> None:
        """Gives all back; later calls do nothing."""
        self._share.release()
