"""What is given up when memory is short, in a fixed order: everything on the drafters' side before the target.

A step is one file with one function: from a rung, the leaner rungs that this step leads to, one after the other. The
order below is all there is; the rungs of all steps together are the ladder, from the plan that costs nothing to plain
decoding in the narrowest KV type. Each rung takes fewer bytes and is no faster than the one before, so the first one
that fits is the best one that fits, and more memory never gives a worse plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

from memory.choices import Choices, Scene
from memory.ladder import (
    chain,
    context,
    drafter,
    drafter_cache,
    intermediate,
    kv_type,
    model_free,
    no_speculation,
    prefill_chunk,
    tree,
)

STEPS: tuple[ModuleType, ...] = (
    tree,
    chain,
    drafter_cache,
    intermediate,
    drafter,
    model_free,
    kv_type,
    prefill_chunk,
    no_speculation,
    context,
)


@dataclass(frozen=True)
class Rung:
    """One rung: the step that led to it (None: the start) and what is chosen there."""

    step: ModuleType | None
    choices: Choices


def rungs(start: Choices, scene: Scene, weigh: Callable[[Choices], int]) -> Iterator[Rung]:
    """The ladder from ``start`` down. ``weigh`` gives the bytes of choices; nothing is given up that saves none."""
    yield Rung(None, start)
    current, least = start, weigh(start)
    for step in STEPS:
        for choices in step.reduce(current, scene):
            if (needed := weigh(choices)) < least:
                yield Rung(step, choices)
                current, least = choices, needed
