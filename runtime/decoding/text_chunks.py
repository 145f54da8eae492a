"""An answer as text: the part of it that each step completes, with the statistics so far."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from time import perf_counter
from typing import NamedTuple

from memory.meter import read_memory
from runtime.decoding.draft import Step
from runtime.decoding.logprobs import TokenLogprob
from runtime.decoding.stats import GenerationStats
from runtime.decoding.stop import StopText
from runtime.text.tokenizer import TextStream


class TextPiece(NamedTuple):
    """Text of an answer, and who proposed it: a drafter's name, or "target" for what was not drafted."""

    text: str
    source: str


@dataclass(frozen=True)
class TextChunk:
    """One step as text: ``pieces`` that may be shown now (possibly none), the step, and the statistics so far.

    A character of several tokens, and text that could have become a stop string, belong to the token that completes
    them.
    """

    pieces: tuple[TextPiece, ...]
    step: Step
    stats: GenerationStats

    @property
    def text(self) -> str:
        """The text of all pieces."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        """Those of the step's tokens, whose bytes ``Tokenizer.token_bytes`` has; ``text`` may lag behind them."""
        return self.step.logprobs


def text_chunks(
    steps: Generator[Step, None, None], stats: GenerationStats, stream: TextStream, shown: StopText
) -> Generator[TextChunk, None, None]:
    """A chunk for each of ``steps``: tokens go through ``stream`` and ``shown``, and are counted in ``stats``."""
    start = perf_counter()
    with closing(steps):
        for step in steps:
            stats = stats.after(step, perf_counter() - start)
            tokens = step.tokens[:-1] if step.finish == "eos" else step.tokens
            texts = [shown.feed(stream.feed([token])) for token in tokens]
            if step.finish is not None:
                texts.append(shown.feed(stream.flush()) + shown.flush())
                stats = replace(stats, memory=read_memory())
            yield TextChunk(_pieces(texts, step.sources), step, stats)


def _pieces(texts: Sequence[str], sources: Sequence[str]) -> tuple[TextPiece, ...]:
    """The texts that are not empty with their sources; a text without a token of its own has the last one's."""
    return tuple(TextPiece(text, source) for text, source in zip(texts, (*sources, sources[-1]), strict=False) if text)
