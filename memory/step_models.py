"""What one step of decoding is expected to bring and to cost: the model that planner and scheduler share.

The planner uses it before anything is loaded, with a constant agreement and the costs of a device. The scheduler uses
it while it decodes, with the acceptance by depth that it has seen and with costs corrected by measured steps.

Tokens follow Leviathan et al. 2023 (section 3.4) for chains, EAGLE-2 (Li et al. 2024) for trees, and SpecMQuant (arXiv
2505.22179) for hierarchies. ``memory.overlap`` has overlapped drafts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Protocol

from memory.expected import chain_tokens, tree_tokens
from memory.plan import Shape

# Halvings of the interval in which an even chance is searched: more precise than any acceptance is known.
_HALVINGS = 12


class StepCosts(Protocol):
    """Seconds of forwards, and of the loop's own work for every step and every node; all for one length of the text."""

    @property
    def step_seconds(self) -> float: ...

    @property
    def node_seconds(self) -> Mapping[Shape, float]: ...

    def target(self, rows: int) -> float:
        """A forward of the target."""
        ...

    def forward(self, level: str, rows: int) -> float:
        """A forward of a level below it."""
        ...

    def drafts_in_parallel(self, level: str) -> bool:
        """Whether one forward of a level computes a whole draft."""
        ...


@dataclass(frozen=True)
class StepEstimate:
    """An average step: ``tokens`` committed, seconds of ``verifying``, seconds of ``drafting``, tokens ``drafted``.

    ``drafting`` includes the loop's own work for the drafted nodes. ``StepCosts.step_seconds`` are in neither. With
    ``drafted`` 0, ``drafting`` does not depend on the number of tokens.
    """

    tokens: float
    verifying: float
    drafting: float
    drafted: float


def chain_step(costs: StepCosts, drafter: str, chances: Sequence[float]) -> StepEstimate:
    """A step with a chain by ``drafter``; the chain has one token for each of ``chances``, the acceptance by depth."""
    length, tokens = len(chances), chain_tokens(chances)
    drafting = draft_seconds(costs, drafter, "chain", length, length, tokens)
    drafted = 0.0 if costs.drafts_in_parallel(drafter) else length
    return StepEstimate(tokens, costs.target(1 + length), drafting, drafted)


def seconds_per_token(costs: StepCosts, drafter: str, estimate: StepEstimate, length: int) -> float:
    """Average seconds of drafting that a chain of ``length`` tokens saves for each token that it is shorter.

    A level that drafts in parallel has run its forward by then.
    """
    if costs.drafts_in_parallel(drafter):
        return costs.node_seconds["chain"]
    return estimate.drafting / length


def tree_step(costs: StepCosts, drafter: str, depth: int, nodes: int, tokens: float) -> StepEstimate:
    """A step with a tree by ``drafter``, which is expected to commit ``tokens``."""
    drafting = draft_seconds(costs, drafter, "tree", nodes, depth)
    return StepEstimate(tokens, costs.target(1 + nodes), drafting, nodes)


def draft_seconds(
    costs: StepCosts, drafter: str, shape: Shape, nodes: int, depth: int, committed: float = 1.0
) -> float:
    """Seconds of drafting: a forward of ``drafter`` for every depth, and the loop's own work for the nodes.

    For a tree each forward reads the nodes of all depths above again (``runtime.drafters.draft_tree``). A level that
    drafts in parallel runs one forward for chains of any length: it reads the tokens that a step ``committed``, on
    average, and a mask for every token of the draft but the last.
    """
    if costs.drafts_in_parallel(drafter):
        rows = [round(committed) + depth - 1] if depth else []
    else:
        rows = [1] * depth if shape == "chain" else [max(1, nodes * level // depth) for level in range(depth)]
    return sum(costs.forward(drafter, count) for count in rows) + nodes * costs.node_seconds[shape]


def judged_step_seconds(costs: StepCosts, drafter: str, judge: str, shape: Shape, nodes: int, depth: int) -> float:
    """Seconds of one step of level ``judge`` with a draft by ``drafter``; with ``nodes`` 0, without a draft."""
    drafting = draft_seconds(costs, drafter, shape, nodes, depth)
    return costs.forward(judge, 1 + nodes) + drafting + costs.step_seconds


def hierarchy_step(
    costs: StepCosts, middle: str, chances: Sequence[float], brought: Sequence[float], judged_seconds: float
) -> StepEstimate:
    """A step with a chain by the intermediate ``middle``, which speculates itself.

    The chain has at most ``len(chances)`` tokens, which the target accepts with ``chances`` by depth. It is made of
    steps of ``middle``, each of ``judged_seconds``; ``brought[i]`` is the chance that one brings i + 1 tokens. Drafting
    ends as soon as another step could make the chain too long. After a chain that was accepted as a whole, ``middle``
    lacks a token of the text, so its next forward has one row more.
    """
    steps, lengths = _inner_steps(len(chances), tuple(brought))
    catching_up = costs.forward(middle, 2) - costs.forward(middle, 1)
    tokens = verifying = drafted = missing = 0.0
    for length, share in lengths.items():
        tokens += share * chain_tokens(chances[:length])
        verifying += share * costs.target(1 + length)
        drafted += share * length
        missing += share * prod(chances[:length])
    drafting = steps * judged_seconds + missing * catching_up + drafted * costs.node_seconds["chain"]
    return StepEstimate(tokens, verifying, drafting, drafted)


def brought_by_chain(chances: Sequence[float]) -> tuple[float, ...]:
    """The chance that a step with a chain brings 1, 2, ... tokens."""
    shares, survival = [], 1.0
    for chance in chances:
        shares.append(survival * (1 - chance))
        survival *= chance
    return (*shares, survival)


def brought_by_tree(chances: Sequence[float], nodes: int, gain: float = 1.0) -> tuple[float, ...]:
    """The same for a tree, taken to be a chain that brings as many tokens on average.

    ``gain`` corrects the expected number of accepted nodes, as observed.
    """
    return brought_by_chain(_even_chances(tuple(chances), nodes, gain))


@lru_cache(maxsize=256)
def _even_chances(chances: tuple[float, ...], nodes: int, gain: float) -> tuple[float, ...]:
    accepted, depth = (tree_tokens(chances, nodes) - 1) * gain, len(chances)
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if chain_tokens([middle] * depth) - 1 < accepted else (low, middle)
    return (low,) * depth


@lru_cache(maxsize=256)
def _inner_steps(depth: int, brought: tuple[float, ...]) -> tuple[float, Mapping[int, float]]:
    """Average steps of the intermediate for a draft of at most ``depth`` tokens, and the chance of every length.

    What the last step brings is cut to what still fits (``runtime.drafters.hierarchy``).
    """
    enough = max(1, depth - (len(brought) - 1))
    reached = {0: 1.0}
    lengths: dict[int, float] = {}
    steps = 0.0
    for length in range(enough):
        share = reached.get(length, 0.0)
        steps += share
        for more, chance in enumerate(brought, 1):
            end = min(length + more, depth)
            into = reached if end < enough else lengths
            into[end] = into.get(end, 0.0) + share * chance
    return steps, lengths
