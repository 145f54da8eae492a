"""An answer as text: the part of it that each step completes, with the statistics so far."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from time import perf_counter

from memory.meter import read_memory
from runtime.decoding.draft import Step
from runtime.decoding.stats import GenerationStats
from runtime.decoding.stop import StopText
from runtime.text.tokenizer import TextStream


@dataclass(frozen=True)
class TextChunk:
    """One step as text: ``text`` that may be shown now (possibly empty), the step, and the statistics so far."""

    text: str
    step: Step
    stats: GenerationStats


def text_chunks(
    steps: Generator[Step, None, None], stats: GenerationStats, stream: TextStream, shown: StopText
) -> Generator[TextChunk, None, None]:
    """A chunk for each of ``steps``: tokens go through ``stream`` and ``shown``, and are counted in ``stats``."""
    start = perf_counter()
    with closing(steps):
        for step in steps:
            stats = stats.after(step, perf_counter() - start)
            text = shown.feed(stream.feed(step.tokens[:-1] if step.finish == "eos" else step.tokens))
            if step.finish is not None:
                text += shown.feed(stream.flush()) + shown.flush()
                stats = replace(stats, memory=read_memory())
            yield TextChunk(text, step, stats)
