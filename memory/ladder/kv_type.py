"""The precision of the target's KV cache: the first thing that can change what it says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from memory.choices import Choices, Scene

NAME = "KV type of the target"
REASON = "the conversation keeps its length; what it costs in perplexity was measured at export"


def reduce(choices: Choices, scene: Scene) -> Iterator[Choices]:
    """Narrower types that the target has graphs for, unless the user named one."""
    if scene.request.kv_type is not None:
        return
    types = scene.kv_types(scene.manifest.target.name)
    for kv_type in types[types.index(choices.kv_type) + 1 :]:
        yield replace(choices, kv_type=kv_type)


def describe(choices: Choices) -> str:
    """What is changed, as it is in ``choices``."""
    return choices.kv_type
