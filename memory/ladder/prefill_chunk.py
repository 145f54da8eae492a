"""How many rows of a prompt run at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from memory.choices import PREFILL_CHUNKS, Choices, Scene

NAME = "prefill chunk"
REASON = "prompts are read in smaller pieces, with fewer activations at a time"


def reduce(choices: Choices, scene: Scene) -> Iterator[Choices]:
    """Smaller chunks."""
    for chunk in PREFILL_CHUNKS:
        if chunk < choices.prefill_chunk:
            yield replace(choices, prefill_chunk=chunk)


def describe(choices: Choices) -> str:
    """What is changed, as it is in ``choices``."""
    return f"{choices.prefill_chunk} rows"
