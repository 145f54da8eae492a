"""One conversation with a user: what commands work on, and how an answer is given."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from memory.layer_states import why_no_trees
from runtime.chat.interrupts import at_interrupt
from runtime.chat.line_reader import LineReader
from runtime.chat.presenter import Presenter
from runtime.chat.status import status_line
from runtime.constraints.request import Constrained, cut_notice
from runtime.conversation import Conversation
from runtime.decoding.stats import GenerationStats
from runtime.engine import Engine, TextChunk
from runtime.scheduler.learned_state import explanation_lines
from runtime.speculation.request import Speculation
from runtime.turns import Answer


@dataclass
class Chat:
    """The parts of a conversation with a user.

    ``speculation`` is what the engine was opened for, ``constraint`` what answers must be. ``shows_stats`` and
    ``explains`` are what follows every answer. ``stats`` are those of the latest answer. ``is_over`` ends the
    conversation.
    """

    engine: Engine
    conversation: Conversation
    reader: LineReader
    presenter: Presenter
    speculation: Speculation
    shows_stats: bool = False
    explains: bool = False
    constraint: Constrained | None = None
    stats: GenerationStats | None = None
    is_over: bool = False

    def read(self, draft: str = "") -> str | None:
        """The next text of the user, who may begin with ``draft``; None at the end. TokenizerError if it is none."""
        return self.reader.read(status_line(self.engine, self.stats), draft)

    def answer(self, answer: Answer[TextChunk]) -> None:
        """Shows ``answer``, which Ctrl-C ends, and what was asked for after it."""
        chunk = None
        try:
            with at_interrupt(answer.cancel), closing(answer):
                for chunk in answer:
                    self.presenter.show(chunk.pieces)
        finally:
            self.presenter.end()
        if chunk is None:
            self.presenter.note("stopped before the first token, so nothing was said")
            return
        self.stats = chunk.stats
        if chunk.step.finish is None:
            self.presenter.note("stopped; the conversation keeps the answer as far as it came")
        if notice := cut_notice(self.constraint, chunk.step.finish):
            self.presenter.note(notice)
        if self.shows_stats:
            self.presenter.lines([chunk.stats.line()])
        if self.explains:
            self.explain()

    def explain(self) -> None:
        """Shows what was expected of every decoding method, and what it delivered."""
        no_trees = why_no_trees(self.engine.manifest.target)
        self.presenter.lines(explanation_lines(self.engine.explain(), no_trees))
