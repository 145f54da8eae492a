"""The shape of drafts: fewer nodes in a tree, then a chain, which needs no bias for every key and row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from memory.choices import CHAIN_SIZES, TREE_SIZES, Choices, Scene

NAME = "shape of the tree"
REASON = "candidates of a tree resemble one another: the last ones bring the fewest tokens for their rows of logits"


def reduce(choices: Choices, scene: Scene) -> Iterator[Choices]:
    """Smaller trees, then the largest chain that has no more nodes."""
    if choices.shape != "tree":
        return
    for nodes in TREE_SIZES:
        if nodes < choices.nodes:
            choices = replace(choices, nodes=nodes)
            yield choices
    longest = max(nodes for nodes in CHAIN_SIZES if nodes <= choices.nodes)
    yield replace(choices, shape="chain", nodes=longest)


def describe(choices: Choices) -> str:
    """What is changed, as it is in ``choices``."""
    return f"{choices.shape} of {choices.nodes}"
