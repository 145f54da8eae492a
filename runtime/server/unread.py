"""What of an answer its client has not taken yet, in few bytes: neighbours are merged while they wait.

A client that reads as fast as the answer comes gets each part as it comes; one that is slower gets the same text and
log probabilities in fewer parts. Nothing is lost.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from runtime.decoding.logprobs import TokenLogprob
from runtime.server.segments import Segment
from runtime.server.token_sources import TokenSource

# The most bytes of text, and tokens with log probabilities, that are taken at once, so that events are small.
MOST_TEXT_BYTES, MOST_TOKENS = 1024, 8


@dataclass(frozen=True)
class Piece:
    """A part of the answer. ``sources`` say who proposed its text, if that was asked for.

    ``logprobs`` are those of tokens since the piece before, if they were asked for. A piece of the kind "hidden" has
    nothing else.
    """

    segment: Segment
    sources: list[TokenSource] | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


class PackedLogprobs:
    """Log probabilities, 12 bytes for a token and 12 for each of its alternatives, of which all tokens have as many."""

    def __init__(self) -> None:
        self._tokens, self._values = array("i"), array("d")
        self._width = 1

    def __len__(self) -> int:
        return len(self._tokens) // self._width

    def __iter__(self) -> Iterator[TokenLogprob]:
        return map(self._row, range(len(self)))

    def extend(self, logprobs: Iterable[TokenLogprob]) -> None:
        """Adds those of further tokens."""
        for each in logprobs:
            self._width = 1 + len(each.top)
            self._tokens.extend((each.token, *(token for token, _ in each.top)))
            self._values.extend((each.logprob, *(value for _, value in each.top)))

    def take(self, count: int) -> tuple[TokenLogprob, ...]:
        """Takes out the first ``count``."""
        taken = tuple(map(self._row, range(count)))
        del self._tokens[: count * self._width], self._values[: count * self._width]
        return taken

    def _row(self, number: int) -> TokenLogprob:
        start, end = number * self._width, (number + 1) * self._width
        top = zip(self._tokens[start + 1 : end], self._values[start + 1 : end], strict=True)
        return TokenLogprob(self._tokens[start], self._values[start], tuple(top))


class _Sources:
    """Who proposed which characters, neighbours of one source together."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._lengths = array("I")

    def extend(self, sources: Iterable[TokenSource]) -> None:
        for each in sources:
            if self._names and self._names[-1] == each["source"]:
                self._lengths[-1] += len(each["text"])
            else:
                self._names.append(each["source"])
                self._lengths.append(len(each["text"]))

    def take(self, text: str) -> list[TokenSource]:
        """Takes out those of ``text``, the next characters."""
        found: list[TokenSource] = []
        done, runs = 0, 0
        while done < len(text):
            length = min(self._lengths[runs], len(text) - done)
            found.append({"text": text[done : done + length], "source": self._names[runs]})
            self._lengths[runs] -= length
            done += length
            runs += not self._lengths[runs]
        del self._lengths[:runs], self._names[:runs]
        return found


@dataclass
class _UnreadPart:
    """Text of one kind as UTF-8. ``first`` has its kind and calls. ``rows``: its tokens with log probabilities."""

    first: Segment
    sources: _Sources | None
    text: bytearray = field(default_factory=bytearray)
    rows: int = 0

    def continues_with(self, segment: Segment) -> bool:
        return segment.kind == self.first.kind and not segment.calls and not self.first.calls

    def take_text(self) -> str:
        """Takes out as many whole characters as an event may have; all of a tool call, whose text is not shown."""
        end = len(self.text) if self.first.calls else min(len(self.text), MOST_TEXT_BYTES)
        while end < len(self.text) and self.text[end] & 0xC0 == 0x80:  # within a character
            end -= 1
        text = self.text[:end].decode()
        del self.text[:end]
        return text


class Unread:
    """The visible parts of one answer, first in, first out."""

    def __init__(self) -> None:
        self._parts: deque[_UnreadPart] = deque()
        self._logprobs = PackedLogprobs()
        # Of the tokens with log probabilities, those that belong to no part yet.
        self._rows = 0

    def __bool__(self) -> bool:
        return bool(self._parts)

    def add_logprobs(self, logprobs: Sequence[TokenLogprob]) -> None:
        """Adds those of further tokens. They belong to the next segment."""
        self._logprobs.extend(logprobs)
        self._rows += len(logprobs)

    def add(self, segment: Segment, sources: Sequence[TokenSource] | None = None) -> None:
        """Adds a visible segment and who proposed its text."""
        if not self._parts or not self._parts[-1].continues_with(segment):
            first = Segment(segment.kind, "", segment.calls)
            self._parts.append(_UnreadPart(first, None if sources is None else _Sources()))
        part = self._parts[-1]
        part.text += segment.text.encode()
        if part.sources is not None:
            part.sources.extend(sources or ())
        part.rows, self._rows = part.rows + self._rows, 0

    def end(self) -> None:
        """The answer is over: what it has of log probabilities is a part of its own."""
        if self._rows:
            self.add(Segment("hidden", ""))

    def take(self) -> Piece:
        """Takes out the first piece."""
        part = self._parts[0]
        text, rows = part.take_text(), min(part.rows, MOST_TOKENS)
        part.rows -= rows
        segment = Segment(part.first.kind, text, part.first.calls)
        sources = None if part.sources is None else part.sources.take(text)
        if not part.text and not part.rows:
            self._parts.popleft()
        elif not part.text:  # it has more log probabilities than an event may have
            part.first, part.sources = Segment("hidden", ""), None
        return Piece(segment, sources, self._logprobs.take(rows))
