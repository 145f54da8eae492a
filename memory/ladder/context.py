"""The length of the conversation, which is kept as long as anything else can be given up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from memory.choices import MIN_CONTEXT, Choices, Scene

NAME = "context"
REASON = "nothing else is left to give up, and the context was not asked for, or may be smaller"

# The context shrinks by this share of what was wanted at a time.
_PIECES = 64


def reduce(choices: Choices, scene: Scene) -> Iterator[Choices]:
    """Shorter contexts, if the user allows that."""
    if not scene.request.may_shrink:
        return
    wanted, least = choices.context, MIN_CONTEXT * scene.request.turns
    for piece in range(_PIECES - 1, 0, -1):
        shorter = wanted * piece // _PIECES
        if least <= shorter < choices.context:
            choices = replace(choices, context=shorter)
            yield choices


def describe(choices: Choices) -> str:
    """What is changed, as it is in ``choices``."""
    return f"{choices.context:,} tokens"
