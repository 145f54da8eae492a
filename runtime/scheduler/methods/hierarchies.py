"""An intermediate model that drafts chains for the target, itself sped up by a drafter below.

Tokens and seconds of a step follow SpecMQuant's model (arXiv 2505.22179): drafted tokens over what one step of the
intermediate brings are its steps, each with its drafter's forwards and its own of as many rows as are judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from memory.expected import chain_tokens, tree_tokens
from memory.plan import Shape
from runtime.decoding.draft import DraftLimit, Step, chain_limit
from runtime.scheduler.acceptance_stats import Acceptance, Gain
from runtime.scheduler.forecast import Forecast, Room
from runtime.scheduler.latency import Speeds

_LENGTHS = (2, 3, 4, 5, 6, 8, 10, 12)
_INNER = (
    DraftLimit(1, 1),
    DraftLimit(2, 2),
    DraftLimit(3, 3),
    DraftLimit(5, 5),
    DraftLimit(4, 2, "tree"),
    DraftLimit(8, 3, "tree"),
)
_HALVINGS = 12
# What the drafter asks for where no limit says (``runtime.drafters.hierarchy``).
_USUAL_INNER = chain_limit(3)


class Hierarchies:
    """Of the drafter called ``drafter``: the level ``middle`` above the level ``below``.

    ``outer`` and ``inner`` tell what the target and the intermediate accept, ``inner_room`` what the latter can judge.
    """

    def __init__(
        self,
        drafter: str,
        below: str,
        middle: str,
        outer: Acceptance,
        inner: Acceptance,
        inner_room: Callable[[], Room],
    ) -> None:
        self.name = f"{drafter}-chain"
        self.shape: Shape = "chain"
        self.drafter: str | None = drafter
        self.levels: tuple[str, ...] = (below, middle)
        self.acceptances: tuple[Acceptance, ...] = (outer, inner)
        # As of trees for the target.
        self._inner_gain = Gain()
        self._below, self._middle = below, middle
        self._outer, self._inner, self._inner_room = outer, inner, inner_room

    def limits(self, room: Room) -> Iterator[DraftLimit]:
        """See ``Family``: every length outside with every shape inside."""
        inner_room = self._inner_room()
        for inner in _INNER:
            if inner.nodes <= inner_room.nodes and (inner.shape == "chain" or inner_room.trees):
                for length in _LENGTHS:
                    if length <= room.nodes:
                        yield chain_limit(length, inner)

    def forecast(self, limit: DraftLimit, speeds: Speeds) -> Forecast:
        """See ``Family``."""
        inner = limit.inner or _USUAL_INNER
        steps, lengths = _drafting(limit.depth, self._brought(inner))
        catching_up = speeds.forward(self._middle, 2) - speeds.forward(self._middle, 1)
        chances, drafted = self._outer.chances(limit.depth), sum(length * share for length, share in lengths.items())
        drafting = steps * self._inner_seconds(inner, speeds) + catching_up
        drafting += drafted * speeds.costs.node_seconds["chain"]
        seconds = sum(share * speeds.target(1 + length) for length, share in lengths.items())
        seconds += (drafting + speeds.costs.step_seconds) * speeds.correction(self.name)
        tokens = sum(share * chain_tokens(chances[:length]) for length, share in lengths.items())
        return Forecast(self.name, self.drafter, limit, tokens, seconds, drafting, drafted)

    def observe(self, step: Step) -> None:
        """See ``Family``."""
        self._outer.observe(step.num_accepted, step.num_drafted)
        for below in step.below:
            if below.pick.limit.shape == "tree":
                expected = tree_tokens(self._inner.chances(below.pick.limit.depth), below.pick.limit.nodes) - 1
                self._inner_gain.observe(below.num_accepted, expected)
                self._inner.observe_first(below.first_accepted)
            else:
                self._inner.observe(below.num_accepted, below.num_drafted)

    def _inner_seconds(self, inner: DraftLimit, speeds: Speeds) -> float:
        """One step of the intermediate."""
        drafting = inner.depth * speeds.forward(self._below, 1)
        return speeds.forward(self._middle, 1 + inner.nodes) + drafting + speeds.around(inner.shape, inner.nodes)

    def _brought(self, inner: DraftLimit) -> tuple[float, ...]:
        """The chance that a step of the intermediate brings 1, 2, ... tokens."""
        gain = self._inner_gain.value if inner.shape == "tree" else None
        return _shares(tuple(self._inner.chances(inner.depth)), inner.nodes, gain)


@lru_cache(maxsize=2 * len(_INNER))
def _shares(chances: tuple[float, ...], nodes: int, gain: float | None) -> tuple[float, ...]:
    """The chance that so many of these tokens stand, plus one; of a tree (``gain`` given) as of a chain that brings as
    many."""
    if gain is not None:
        chances = (_even_chance((tree_tokens(chances, nodes) - 1) * gain, len(chances)),) * len(chances)
    shares, survival = [], 1.0
    for chance in chances:
        shares.append(survival * (1 - chance))
        survival *= chance
    return (*shares, survival)


@lru_cache(maxsize=2 * len(_INNER) * len(_LENGTHS))
def _drafting(depth: int, brought: tuple[float, ...]) -> tuple[float, Mapping[int, float]]:
    """Steps of the intermediate for a draft, on average, and the chance of every length the draft may have.

    It ends with the first step after which the next one might make the draft longer than ``depth``; the last step's
    guess is cut to what still fits (``runtime.drafters.hierarchy``).
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


def _even_chance(accepted: float, depth: int) -> float:
    """The chance, the same at every depth, with which a chain has so many tokens accepted."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if chain_tokens([middle] * depth) - 1 < accepted else (low, middle)
    return low
