"""Plain decoding: one row at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from memory.choices import Choices, Scene

NAME = "speculation"
REASON = "plain decoding gives the same text, a token at a time"


def reduce(choices: Choices, scene: Scene) -> Iterator[Choices]:
    """No drafts."""
    if choices.nodes:
        yield replace(choices, nodes=0, shape="chain", drafters=(), window=0)


def describe(choices: Choices) -> str:
    """What is changed, as it is in ``choices``."""
    return f"drafts of {choices.nodes}" if choices.nodes else "none"
