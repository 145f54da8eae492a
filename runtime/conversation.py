"""A conversation: messages in turn, each answered by an engine whose KV cache still holds the turns before."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from runtime.engine import Engine, TextChunk
from runtime.template import Message


class Conversation:
    """The messages so far, and the next answer. ``settings`` are those of ``Engine.generate``."""

    def __init__(self, engine: Engine, system: str | None = None, **settings: Any) -> None:
        self._engine, self._settings = engine, settings
        self.messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]

    def say(self, text: str) -> Generator[TextChunk, None, None]:
        """Answers ``text`` chunk by chunk. An answer that is cancelled stays in the conversation as far as it came."""
        messages = [*self.messages, {"role": "user", "content": text}]
        answer = self._engine.generate(messages, **self._settings)
        return self._record(messages, answer)

    def _record(
        self, messages: list[Message], answer: Generator[TextChunk, None, None]
    ) -> Generator[TextChunk, None, None]:
        pieces: list[str] = []
        try:
            for chunk in answer:
                pieces.append(chunk.text)
                yield chunk
        finally:
            answer.close()
            if pieces:
                self.messages = [*messages, {"role": "assistant", "content": "".join(pieces)}]
