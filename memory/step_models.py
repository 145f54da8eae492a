"""What one step of decoding is expected to bring and to cost: the model that planner and scheduler share.

The planner asks before anything is loaded, with a constant agreement and the costs of a device; the scheduler asks
while it decodes, with the acceptance by depth that it has seen and costs corrected by what steps took. Tokens follow
Leviathan et al. 2023 (section 3.4) for chains, EAGLE-2 (Li et al. 2024) for trees, SpecMQuant (arXiv 2505.22179) for
hierarchies and PEARL (arXiv 2408.11850) for overlapped drafts, which ``memory.overlap`` has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Protocol

from memory.expected import chain_tokens, tree_tokens
from memory.plan import Shape

# Halvings of an interval of chances: more precise than any acceptance is known.
_HALVINGS = 12


class StepCosts(Protocol):
    """Seconds, for one length of the text. ``step_seconds`` and ``node_seconds`` are our own work beside forwards."""

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


@dataclass(frozen=True)
class StepEstimate:
    """A step on average: ``tokens`` committed, seconds of ``verifying``, and seconds of ``drafting`` for ``drafted``
    tokens, our own work for them included. What every step takes beside that is not in here."""

    tokens: float
    verifying: float
    drafting: float
    drafted: float


def chain_step(costs: StepCosts, drafter: str, chances: Sequence[float]) -> StepEstimate:
    """A chain by ``drafter``: one forward of it for each token. ``chances`` by depth; a token for each."""
    length = len(chances)
    drafting = draft_seconds(costs, drafter, "chain", length, length)
    return StepEstimate(chain_tokens(chances), costs.target(1 + length), drafting, length)


def tree_step(costs: StepCosts, drafter: str, depth: int, nodes: int, tokens: float) -> StepEstimate:
    """A tree by ``drafter`` with which a step is expected to commit ``tokens``."""
    drafting = draft_seconds(costs, drafter, "tree", nodes, depth)
    return StepEstimate(tokens, costs.target(1 + nodes), drafting, nodes)


def draft_seconds(costs: StepCosts, drafter: str, shape: Shape, nodes: int, depth: int) -> float:
    """A forward of ``drafter`` for every token along a path, and our own work for the nodes.

    For a tree it reads the nodes of all levels above again each time (``runtime.drafters.draft_tree``).
    """
    rows = [1] * depth if shape == "chain" else [max(1, nodes * level // depth) for level in range(depth)]
    return sum(costs.forward(drafter, count) for count in rows) + nodes * costs.node_seconds[shape]


def judged_step_seconds(costs: StepCosts, drafter: str, judge: str, shape: Shape, nodes: int, depth: int) -> float:
    """Seconds of one step of the level ``judge`` with a draft by ``drafter``; ``nodes`` 0: without one."""
    drafting = draft_seconds(costs, drafter, shape, nodes, depth)
    return costs.forward(judge, 1 + nodes) + drafting + costs.step_seconds


def hierarchy_step(
    costs: StepCosts, middle: str, chances: Sequence[float], brought: Sequence[float], judged_seconds: float
) -> StepEstimate:
    """A chain by the level ``middle``, of at most ``len(chances)`` tokens that the target accepts with ``chances``.

    ``brought[i]`` is the chance that one step of ``middle``, of ``judged_seconds``, brings i + 1 tokens. The draft ends
    with the first step behind which the next one might make it too long. Where the target accepted all of the draft
    before, ``middle`` lacks a token and reads one row more.
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
    """The same of a tree: as a chain that brings as many. ``gain``: how many times more nodes stand than expected."""
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
    """Steps of the intermediate for a draft of at most ``depth``, on average, and the chance of every length of it.

    The last step's guess is cut to what still fits (``runtime.drafters.hierarchy``).
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
