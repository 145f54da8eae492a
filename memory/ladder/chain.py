"""The length of chains: a row of logits and a row of the cache each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from memory.choices import CHAIN_SIZES, Choices, Scene

NAME = "length of the chain"
REASON = "the last tokens of a chain are accepted least often"


def reduce(choices: Choices, scene: Scene) -> Iterator[Choices]:
    """Shorter chains."""
    if choices.shape == "chain":
        for nodes in CHAIN_SIZES:
            if nodes < choices.nodes:
                yield replace(choices, nodes=nodes)


def describe(choices: Choices) -> str:
    """What is changed, as it is in ``choices``."""
    return f"chain of {choices.nodes}"
