"""The precision of the target's KV cache: the first thing that can change what it says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from memory.choices import Choices, Scene

NAME = "KV type of the target"
REASON = "the conversation keeps its length; python -m runtime inspect shows what it costs in perplexity"


# A type that multiplies perplexity by more than this is taken only if the user allows that. Four bits were measured at
# 1.002 to 1.012 with heads of 32, and at 1.38 with heads of 8, which have too few values for a scale.
MAX_PERPLEXITY = 1.03


def reduce(choices: Choices, scene: Scene) -> Iterator[Choices]:
    """Narrower types that the target has graphs for, unless the user named one."""
    if scene.request.kv_type is not None:
        return
    target = scene.manifest.target
    types = scene.kv_types(target.name)
    for kv_type in types[types.index(choices.kv_type) + 1 :]:
        effect = target.kv_effects.get(kv_type)
        harmless = effect is None or effect.perplexity is None or effect.perplexity <= MAX_PERPLEXITY
        if harmless or "precision" in scene.request.may_give_up:
            yield replace(choices, kv_type=kv_type)


def describe(choices: Choices) -> str:
    """What is changed, as it is in ``choices``."""
    return choices.kv_type
