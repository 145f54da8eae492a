"""A draft: the tree of tokens that a drafter guesses, and the rows of the target that its nodes are.

A chain is a tree with one child per node. Nodes are numbered parents first; parent ``-1`` is the anchor, the last
committed token. In the target's forward the anchor is row 0 and node ``i`` is row ``i + 1``; only this module knows
that.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from memory.plan import Shape
from runtime.arrays import FloatArray
from runtime.decoding.logprobs import TokenLogprob

PLAIN_NAME = "plain"


class DrawKind(enum.Enum):
    """How the nodes were chosen, which decides how acceptance rules may use their probabilities.

    ONE_HOT: chosen, not drawn; their probabilities must not be used. INDEPENDENT: all children of a node were drawn
    from its distribution, with replacement. WITHOUT_REPLACEMENT: they were drawn one after another, each from the
    distribution without the siblings drawn before.
    """

    ONE_HOT = "one-hot"
    INDEPENDENT = "independent"
    WITHOUT_REPLACEMENT = "without-replacement"


@dataclass(frozen=True)
class DraftLimit:
    """The largest draft that is wanted: a ``shape`` of ``nodes`` in all, with at most ``depth`` tokens along one path.

    A node is left out if the drafter estimates its chance of acceptance, together with all nodes above it, below
    ``floor``. ``inner`` is the limit for the drafter below in a hierarchy.
    """

    nodes: int
    depth: int
    shape: Shape = "chain"
    floor: float = 0.0
    inner: DraftLimit | None = None

    def within(self, nodes: int, depth: int) -> DraftLimit:
        """This limit, reduced to ``nodes`` and ``depth``."""
        nodes, depth = min(self.nodes, nodes), min(self.depth, depth)
        if self.shape == "chain":
            nodes = min(nodes, depth)
        return replace(self, nodes=nodes, depth=min(nodes, depth))


NOTHING = DraftLimit(0, 0)


@dataclass(frozen=True)
class Pick:
    """The drafter for the next step, None for plain decoding, and the largest draft that is wanted of it."""

    drafter: str | None
    limit: DraftLimit = NOTHING

    @property
    def name(self) -> str:
        """The name that benchmarks use: plain, NAME-chain3, NAME-tree7x3, LOWER>MIDDLE-chain6/tree8x3."""
        return PLAIN_NAME if self.drafter is None else f"{self.drafter}-{limit_name(self.limit)}"


def limit_name(limit: DraftLimit) -> str:
    """A limit in the names of picks; that of the level below follows a slash."""
    size = f"{limit.nodes}" if limit.shape == "chain" else f"{limit.nodes}x{limit.depth}"
    below = f"/{limit_name(limit.inner)}" if limit.inner is not None else ""
    return f"{limit.shape}{size}{below}"


def chain_limit(length: int, inner: DraftLimit | None = None) -> DraftLimit:
    """The limit of a chain of ``length`` tokens."""
    return DraftLimit(length, length, inner=inner)


def tree_limit(nodes: int) -> DraftLimit:
    """The limit of a tree of ``nodes`` nodes, with the usual depth of such trees: 3 for 7 nodes, 4 for 15."""
    return DraftLimit(nodes, nodes.bit_length(), "tree")


@dataclass(frozen=True)
class Draft:
    """A drafter's guess.

    ``tokens[i]`` is node i, ``parents[i] < i`` its parent (-1: the anchor). ``probs`` maps a parent to the distribution
    from which its children were drawn, float32 ``[vocab]`` after all sampling filters, valid until the drafter's next
    draft; it is empty for ONE_HOT. Siblings are in the order they were drawn.

    ``expected`` is the drafter's estimate of how many tokens will be accepted, if it makes one, and ``chances`` its
    estimates for every node, given that all nodes above are accepted. ``source`` names the drafter. ``below`` are the
    steps of a hierarchy's intermediate. ``rows_read`` counts rows of the drafter's model that only caught up with the
    text, without the row of the last token. ``reviewed`` tells of the last tokens so read, one after another, whether
    they were the drafter's own guess; it may be empty.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    kind: DrawKind = DrawKind.ONE_HOT
    probs: Mapping[int, FloatArray] = field(default_factory=dict)
    expected: float | None = None
    source: str = ""
    chances: tuple[float, ...] = ()
    below: tuple[Step, ...] = ()
    rows_read: int = 0
    reviewed: tuple[bool, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def is_chain(self) -> bool:
        """Whether every node is the only child of the node before it."""
        return all(parent == node - 1 for node, parent in enumerate(self.parents))

    @property
    def depth(self) -> int:
        """The most tokens along one path."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 + (depths[parent] if parent >= 0 else 0))
        return max(depths, default=0)

    @property
    def main_path(self) -> int:
        """How many nodes lie on the path that follows the first child of every node: what a chain would have been."""
        return next((node for node, parent in enumerate(self.parents) if parent != node - 1), len(self.parents))

    def children(self, node: int) -> list[int]:
        """The nodes whose parent is ``node`` (-1: the anchor), in sibling order."""
        return [child for child, parent in enumerate(self.parents) if parent == node]

    def rows(self, anchor: int) -> tuple[list[int], list[int] | None]:
        """The target's input: tokens (anchor first) and the parent row of each row, None for a chain.

        Nodes A, B, C with parents -1, -1, 0 become rows anchor, A, B, C with parent rows -1, 0, 0, 1.
        """
        tokens = [anchor, *self.tokens]
        return tokens, None if self.is_chain else [-1, *(parent + 1 for parent in self.parents)]


def row_of(node: int) -> int:
    """The target's row of ``node``, whose logits follow it (-1: the anchor's row, 0)."""
    return node + 1


def make_chain(tokens: Sequence[int], **fields: object) -> Draft:
    """A draft without branches."""
    return Draft(tuple(tokens), tuple(range(-1, len(tokens) - 1)), **fields)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Verdict:
    """``path``: accepted nodes from the anchor down. ``token``: the target's own token after them.

    ``logprobs`` has one entry for each of these tokens if log probabilities were asked for.
    """

    path: tuple[int, ...]
    token: int
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Step:
    """One forward of the target and the ``tokens`` it committed; ``sources`` names who proposed each.

    ``num_accepted`` of the ``num_drafted`` nodes were accepted, even if a stop rule then cut some. Times are wall
    clock: drafting, the target's forward, and the whole step. ``finish`` is "eos", "stop", "length" or "context" on the
    last step of an answer, else None. ``pick`` is what was asked for, ``depth`` that of the draft. ``main_drafted`` and
    ``main_accepted``: nodes of the draft's main path, and how many of these were accepted. ``chances`` are the
    drafter's estimates for the accepted nodes and the first rejected one, if it made any; ``below``, ``rows_read`` and
    ``reviewed`` are those of the draft. ``logprobs`` has one entry for each of ``tokens`` if log probabilities were
    asked for.
    """

    tokens: tuple[int, ...]
    sources: tuple[str, ...]
    num_drafted: int
    num_accepted: int
    draft_seconds: float
    target_seconds: float
    seconds: float
    finish: str | None = None
    pick: Pick = Pick(None)
    depth: int = 0
    main_drafted: int = 0
    main_accepted: int = 0
    chances: tuple[float, ...] = ()
    below: tuple[Step, ...] = ()
    rows_read: int = 0
    reviewed: tuple[bool, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
