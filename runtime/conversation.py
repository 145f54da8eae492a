"""A conversation: an engine answers message after message, and its KV cache keeps the turns before."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from runtime.context_overflow import make_policy
from runtime.engine import Engine, TextChunk
from runtime.text.template_data import Message, make_inputs
from runtime.text.token_history import History
from runtime.turns import Answer


class Conversation:
    """A conversation with ``engine``; ``messages`` has the turns so far.

    ``system`` is the system message. ``when_full`` says what happens when the conversation outgrows the engine's
    context: "stop", "drop" (the oldest turns leave ``messages``) or "slide" (a window, see ``context_overflow``);
    ``notify`` gets a line when it happens. ``template_arguments``, ``tools`` and ``documents`` are given to the chat
    template at every turn. ``settings`` are further arguments of ``Engine.generate``.
    """

    def __init__(
        self,
        engine: Engine,
        system: str | None = None,
        when_full: str = "stop",
        notify: Callable[[str], None] = lambda line: None,
        template_arguments: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        **settings: Any,
    ) -> None:
        self._engine, self._settings = engine, settings
        self._history = History(engine.tokenizer)
        inputs = make_inputs(template_arguments, tools, documents)
        self._policy = make_policy(when_full, engine.tokenizer, self._history, notify, inputs)
        self.messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]

    def say(self, text: str) -> Answer[TextChunk]:
        """Answers the message ``text`` chunk by chunk; what was read of a cancelled answer stays in ``messages``.

        Earlier turns are not computed again, unless the template changes them or turns were dropped. ContextFullError
        if the conversation cannot continue; BusyError while another thread uses the engine.
        """
        self._engine.end_answer()
        messages = [*self.messages, {"role": "user", "content": text}]
        tokens = self._policy.prompt(messages, self._engine.capacity)
        settings = {"when_full": self._policy.refit, "left_out": self._policy.left_out, **self._settings}
        answer = self._engine.generate(tokens, **settings)
        return answer.through(lambda chunks: self._record(messages, chunks))

    def _record(
        self, messages: list[Message], chunks: Generator[TextChunk, None, None]
    ) -> Generator[TextChunk, None, None]:
        pieces: list[str] = []
        tokens: list[int] = []
        ended = False
        try:
            for chunk in chunks:
                pieces.append(chunk.text)
                tokens += chunk.step.tokens
                ended = chunk.step.finish == "eos"
                yield chunk
        finally:
            chunks.close()
            if pieces:
                shown = "".join(pieces)
                self._history.add_answer(tokens, shown, ended)
                self.messages = [*messages, {"role": "assistant", "content": shown}]
