"""The intermediate model between drafter and target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from memory.choices import Choices, Scene

NAME = "intermediate"
REASON = "it is the largest model beside the target; two levels still draft"


def reduce(choices: Choices, scene: Scene) -> Iterator[Choices]:
    """Without intermediates."""
    kept = tuple(name for name in choices.drafters if scene.levels[name].role != "intermediate")
    if kept != choices.drafters:
        yield replace(choices, drafters=kept)


def describe(choices: Choices) -> str:
    """What is changed, as it is in ``choices``."""
    return " and ".join(choices.drafters) or "none"
