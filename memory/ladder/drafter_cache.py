"""The drafters' own KV caches: half the precision, then a window on the end of the conversation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from memory.choices import Choices, Scene

NAME = "drafters' KV window"
REASON = "a drafter guesses from the latest text nearly as well, and its guesses are judged by the target anyway"

MIN_WINDOW = 256


def reduce(choices: Choices, scene: Scene) -> Iterator[Choices]:
    """float16 caches where all drafters have graphs for it, then half the window again and again."""
    if not choices.drafters:
        return
    if choices.drafter_kv_type == "fp32" and all("fp16" in scene.kv_types(name) for name in choices.drafters):
        choices = replace(choices, drafter_kv_type="fp16")
        yield choices
    while choices.window // 2 >= MIN_WINDOW:
        choices = replace(choices, window=choices.window // 2)
        yield choices


def describe(choices: Choices) -> str:
    """What is changed, as it is in ``choices``."""
    return f"the last {choices.window:,} tokens in {choices.drafter_kv_type}"
