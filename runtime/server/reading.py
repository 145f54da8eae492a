"""Reads an answer as it comes: its parts, where they come from, and its numbers at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal

from runtime.decoding.logprobs import TokenLogprob
from runtime.engine import TextChunk
from runtime.server.prepare import Prepared
from runtime.server.segments import Segment
from runtime.server.token_sources import TokenSource, TokenSources
from runtime.server.tool_calls.format import ToolCall
from runtime.server.worker import Job


@dataclass(frozen=True)
class Piece:
    """A part of the answer. ``sources`` say who proposed its text, if that was asked for.

    ``logprobs`` are those of all tokens since the piece before, if they were asked for.
    """

    segment: Segment
    sources: list[TokenSource] | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass
class Collected:
    """What has come so far, and the last chunk, whose statistics are those of the answer.

    ``reasoning_tokens``: those up to the end of the reasoning. ``late_logprobs`` are those that came after the last
    piece.
    """

    content: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    late_logprobs: tuple[TokenLogprob, ...] = ()
    last: TextChunk | None = None
    prompt_seconds: float = 0.0
    reasoning_tokens: int = 0

    def add(self, segment: Segment) -> None:
        """Adds a part."""
        if segment.kind == "content":
            self.content += segment.text
        elif segment.kind == "reasoning":
            self.reasoning += segment.text
            self.reasoning_tokens = 0 if self.last is None else self.last.stats.tokens
        self.calls += segment.calls

    @property
    def finish_reason(self) -> Literal["stop", "length", "tool_calls"]:
        """Why the answer ended, in OpenAI's words."""
        if self.last is None or self.last.step.finish in ("length", "context"):
            return "length"
        return "tool_calls" if self.calls else "stop"


class Reader:
    """Reads the answer of ``job``; what it has read is in ``collected``."""

    def __init__(self, prepared: Prepared, job: Job, token_sources: bool = False) -> None:
        self.collected = Collected()
        self._job, self._segmenter = job, prepared.segmenter()
        self._sources = TokenSources() if token_sources else None

    async def pieces(self) -> AsyncIterator[Piece]:
        """The visible parts, in their order."""
        collected = self.collected
        async for chunk in self._job.chunks():
            self._note(chunk)
            segments = self._segmenter.feed(chunk.text)
            if chunk.step.finish is not None:
                segments += self._segmenter.flush()
            for segment in segments:
                sources = self._sources.take(len(segment.text)) if self._sources else None
                collected.add(segment)
                if segment.kind != "hidden":
                    logprobs, collected.late_logprobs = collected.late_logprobs, ()
                    yield Piece(segment, sources, logprobs)

    async def collect(self) -> Collected:
        """The whole answer."""
        async for _ in self.pieces():
            pass
        return self.collected

    def _note(self, chunk: TextChunk) -> None:
        collected = self.collected
        if collected.last is None:
            collected.prompt_seconds = max(chunk.stats.first_token_seconds - chunk.step.seconds, 0.0)
        collected.last = chunk
        logprobs = chunk.logprobs[:-1] if chunk.step.finish == "eos" else chunk.logprobs
        collected.logprobs += logprobs
        collected.late_logprobs += tuple(logprobs)
        if self._sources is not None:
            self._sources.add(chunk.pieces)
