"""No drafter model at all: repetition in the text is the only drafter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from memory.choices import Choices, Scene

NAME = "drafter model"
REASON = "repetition in the text drafts without a model"


def reduce(choices: Choices, scene: Scene) -> Iterator[Choices]:
    """Without drafter models."""
    if choices.drafters:
        yield replace(choices, drafters=(), window=0)


def describe(choices: Choices) -> str:
    """What is changed, as it is in ``choices``."""
    return " and ".join(choices.drafters) or "the suffix drafter alone"
