"""An intermediate model that drafts chains for the target, itself sped up by a drafter below.

Tokens and seconds of a step follow SpecMQuant's model (arXiv 2505.22179): drafted tokens over what one step of the
intermediate brings are its steps, each with its drafter's forwards and its own of as many rows as are judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from memory.expected import chain_tokens, tree_tokens
from runtime.decode import Step
from runtime.draft import DraftLimit, chain_limit
from runtime.scheduler import Pick
from runtime.scheduler.acceptance import Acceptance, Ratio
from runtime.scheduler.families.trees import GAIN_SHARE, bounded_gain
from runtime.scheduler.speeds import Speeds
from runtime.scheduler.ways import Forecast, Room

_LENGTHS = (2, 3, 4, 5, 6, 8, 10, 12)
_INNER = (
    DraftLimit(1, 1),
    DraftLimit(2, 2),
    DraftLimit(3, 3),
    DraftLimit(5, 5),
    DraftLimit(4, 2, "tree"),
    DraftLimit(8, 3, "tree"),
)
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
        self.drafter: str | None = drafter
        self.levels: tuple[str, ...] = (below, middle)
        # As of trees for the target.
        self._inner_gain = Ratio(GAIN_SHARE)
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
        brought, spent = self._inner_step(inner, speeds)
        steps, drafted = _inner_steps(limit.depth, inner.depth, brought)
        catching_up = speeds.forward(self._middle, 2) - speeds.forward(self._middle, 1)
        drafting = steps * spent + catching_up
        seconds = speeds.target(1 + round(drafted)) + drafting * speeds.correction(self.name)
        seconds += speeds.around("chain", drafted)
        tokens = _chain_tokens(self._outer.chances(limit.depth), drafted)
        return Forecast(Pick(self.drafter, limit), self.name, tokens, seconds, drafting, drafted)

    def observe(self, step: Step) -> None:
        """See ``Family``."""
        self._outer.observe(step.num_accepted, step.num_drafted)
        for below in step.below:
            if below.num_drafted == below.depth:  # a chain
                self._inner.observe(below.num_accepted, below.num_drafted)
            else:
                expected = tree_tokens(self._inner.chances(below.depth), below.num_drafted) - 1
                self._inner_gain.observe(bounded_gain(below.num_accepted, expected))

    def _inner_step(self, inner: DraftLimit, speeds: Speeds) -> tuple[float, float]:
        """Tokens and seconds of one step of the intermediate."""
        chances = self._inner.chances(inner.depth)
        drafting = inner.depth * speeds.forward(self._below, 1)
        spent = speeds.forward(self._middle, 1 + inner.nodes) + drafting + speeds.around(inner.shape, inner.nodes)
        if inner.shape == "chain":
            return chain_tokens(chances), spent
        return 1 + (tree_tokens(chances, inner.nodes) - 1) * self._inner_gain.value, spent


def _inner_steps(length: int, inner_depth: int, brought: float) -> tuple[float, float]:
    """Steps of the intermediate for one draft, and tokens drafted: it ends where one step more might be too many."""
    enough = max(1, length - inner_depth)
    steps = max(1.0, enough / brought + 0.5 * (1 - 1 / brought))
    return steps, min(float(length), steps * brought)


def _chain_tokens(chances: list[float], length: float) -> float:
    """``chain_tokens`` of a chain whose length is a mean."""
    whole = min(int(length), len(chances))
    tokens = chain_tokens(chances[:whole])
    if whole == len(chances):
        return tokens
    return tokens + (length - whole) * (chain_tokens(chances[: whole + 1]) - tokens)
