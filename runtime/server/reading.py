"""Reads an answer as it comes: its parts, where they come from, and its numbers at the end.

What the engine has made is taken at once, whether the client reads or not, so the engine never waits for clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal

from runtime.engine import TextChunk
from runtime.server.prepare import Prepared
from runtime.server.request_memory import AnswerShare
from runtime.server.segments import Segment
from runtime.server.token_sources import TokenSources
from runtime.server.tool_calls.format import ToolCall
from runtime.server.unread import PackedLogprobs, Piece, Unread


@dataclass
class Collected:
    """The numbers of what has come so far, and the last chunk, whose statistics are those of the answer.

    ``reasoning_tokens``: those up to the end of the reasoning.
    """

    last: TextChunk | None = None
    prompt_seconds: float = 0.0
    reasoning_tokens: int = 0
    has_calls: bool = False

    def add(self, segment: Segment) -> None:
        """Counts a part."""
        if segment.kind == "reasoning":
            self.reasoning_tokens = 0 if self.last is None else self.last.stats.tokens
        self.has_calls = self.has_calls or bool(segment.calls)

    @property
    def finish_reason(self) -> Literal["stop", "length", "tool_calls"]:
        """Why the answer ended, in OpenAI's words."""
        if self.last is None or self.last.step.finish in ("length", "context"):
            return "length"
        return "tool_calls" if self.has_calls else "stop"


@dataclass
class WholeAnswer:
    """All parts of an answer, for a reply that is no stream."""

    calls: list[ToolCall] = field(default_factory=list)
    logprobs: PackedLogprobs = field(default_factory=PackedLogprobs)
    _content: bytearray = field(default_factory=bytearray)
    _reasoning: bytearray = field(default_factory=bytearray)

    def add(self, piece: Piece) -> None:
        """Adds a piece."""
        segment = piece.segment
        if segment.kind == "content":
            self._content += segment.text.encode()
        elif segment.kind == "reasoning":
            self._reasoning += segment.text.encode()
        self.calls += segment.calls
        self.logprobs.extend(piece.logprobs)

    @property
    def content(self) -> str:
        """The text that is neither reasoning nor tool calls."""
        return self._content.decode()

    @property
    def reasoning(self) -> str:
        """The text of the reasoning."""
        return self._reasoning.decode()


class Reader:
    """Takes what comes of an answer, for one that reads its pieces. In one event loop. The numbers are in
    ``collected``; ``share`` is what the answer may have of memory until it is read."""

    def __init__(self, prepared: Prepared, share: AnswerShare, token_sources: bool = False) -> None:
        self.collected = Collected()
        self._share, self._segmenter = share, prepared.segmenter()
        self._sources = TokenSources() if token_sources else None
        self._unread, self._text_bytes = Unread(), 0
        self._has_more, self._is_over, self._is_dropped = asyncio.Event(), False, False
        self._error: BaseException | None = None

    def receive(self, event: TextChunk | BaseException | None) -> None:
        """Takes the next chunk, or what ended the answer: an error, or None.

        ApiError if its text takes more memory than there is; the chunk is taken all the same.
        """
        self._has_more.set()
        if self._is_dropped:
            return
        if isinstance(event, TextChunk):
            self._take(event)
        else:
            self._is_over, self._error = True, event
            self._unread.end()

    def drop(self) -> None:
        """Forgets what nobody will read, now and later."""
        self._unread, self._is_dropped = Unread(), True

    async def pieces(self) -> AsyncIterator[Piece]:
        """The visible parts in their order; raises what ended the answer early."""
        while True:
            await self._has_more.wait()
            while self._unread:
                yield self._unread.take()
            if self._is_over:
                break
            self._has_more.clear()
        if self._error is not None:
            raise self._error

    async def collect(self) -> WholeAnswer:
        """The whole answer."""
        whole = WholeAnswer()
        async for piece in self.pieces():
            whole.add(piece)
        return whole

    def _take(self, chunk: TextChunk) -> None:
        collected = self.collected
        if collected.last is None:
            collected.prompt_seconds = max(chunk.stats.first_token_seconds - chunk.step.seconds, 0.0)
        collected.last = chunk
        self._unread.add_logprobs(chunk.logprobs[:-1] if chunk.step.finish == "eos" else chunk.logprobs)
        if self._sources is not None:
            self._sources.add(chunk.pieces)
        segments = self._segmenter.feed(chunk.text)
        if chunk.step.finish is not None:
            segments += self._segmenter.flush()
        for segment in segments:
            sources = self._sources.take(len(segment.text)) if self._sources else None
            collected.add(segment)
            if segment.kind != "hidden":
                self._unread.add(segment, sources)
        self._text_bytes += len(chunk.text.encode())
        self._share.fit(chunk.stats.tokens, self._text_bytes, is_over=chunk.step.finish is not None)
