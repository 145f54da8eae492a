"""Shows the progress of a measurement: a bar on a terminal, otherwise a line now and then."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from memory.progress_bars import ProgressBars
from runtime.bench.measure import AnswerRecord

_LINES = 20


@contextmanager
def show_answers(total: int, say: Callable[[str], None]) -> Iterator[Callable[[AnswerRecord], None]]:
    """Yields a function to call after each of ``total`` answers; ``say`` prints a line."""
    if not sys.stderr.isatty():
        yield _Lines(total, say)
        return
    with ProgressBars("items") as bars:
        bars.begin("warming up", total)
        yield lambda answer: bars.advance(1, _describe(answer))


class _Lines:
    """Prints at most 20 lines, for any number of answers."""

    def __init__(self, total: int, say: Callable[[str], None]) -> None:
        self._total, self._say, self._count = total, say, 0

    def __call__(self, answer: AnswerRecord) -> None:
        self._count += 1
        if self._count * _LINES // self._total > (self._count - 1) * _LINES // self._total:
            self._say(f"{self._count} of {self._total} answers; {_describe(answer)}")


def _describe(answer: AnswerRecord) -> str:
    speed = answer.tokens_per_second or answer.end_to_end_tokens_per_second
    return f"repeat {answer.repeat + 1}, prompt {answer.prompt + 1}: {answer.contender} {speed:.1f} tokens/s"
