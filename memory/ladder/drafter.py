"""Several drafters: only the smallest stays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from memory.choices import Choices, Scene

NAME = "smaller drafter"
REASON = "a smaller drafter agrees less often, and costs less"


def reduce(choices: Choices, scene: Scene) -> Iterator[Choices]:
    """Without the largest, one after the other."""
    while len(choices.drafters) > 1:
        largest = max(choices.drafters, key=lambda name: scene.levels[name].weight_bytes)
        choices = replace(choices, drafters=tuple(name for name in choices.drafters if name != largest))
        yield choices


def describe(choices: Choices) -> str:
    """What is changed, as it is in ``choices``."""
    return " and ".join(choices.drafters) or "none"
