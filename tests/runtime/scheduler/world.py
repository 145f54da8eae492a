"""A simulated device and text for schedulers: steps with the costs and acceptances it is given, no clock and no model.

So the laws of a policy (never slower, near the best in hindsight, back within so many tokens) are tested exactly and at
once, on devices nobody has.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from export.manifest import Level
from memory.costs import MeasuredCosts, make_row_costs
from memory.expected import tree_tokens
from runtime.decoding.draft import DraftLimit, Pick, Step
from runtime.drafters.confidence import ConfidenceCalibration, is_worth_extending
from runtime.scheduler.available import Kind, Stage, make_methods
from runtime.scheduler.cost_based import CostScheduler
from runtime.scheduler.forecast import Room
from runtime.scheduler.latency import LatencyEstimates
from runtime.scheduler.learned_state import LearnedState

Rows = Mapping[int, float]
# Milliseconds for rows of a 1.5B model in int4, our own kernels and ONNX Runtime's (README, "What a row costs").
FLAT: Rows = {1: 26.1, 2: 28.8, 4: 38.6, 8: 72.7, 16: 131.5}
STEEP: Rows = {1: 41.7, 2: 50.6, 4: 90.8, 8: 169.4, 16: 327.0}
# The same with our kernels for AVX512-VNNI, memory at 50 GB/s.
WIDE: Rows = {1: 16.4, 2: 16.6, 4: 17.2, 8: 18.5, 16: 33.0}
SMALL: Rows = {1: 0.4, 2: 0.5, 4: 0.7, 8: 1.2, 16: 2.2}
MIDDLE: Rows = {1: 8.0, 2: 9.0, 4: 11.0, 8: 17.0, 16: 30.0}


def level(name: str, role: str, agreement: float | None = None) -> Level:
    """A level as far as schedulers look at it."""
    made: Level = object.__new__(Level)
    for key, value in {"name": name, "role": role, "agreement": agreement}.items():
        object.__setattr__(made, key, value)
    return made


@dataclass
class World:
    """What is true: milliseconds of rows by level, chances that a level's token is what the target says.

    Both may hang on the number of tokens so far. ``noise`` multiplies every time by a random factor near 1. ``rows``
    are those that a calibration found; ``real`` are the true ones of levels where it was mistaken. ``machine`` tells
    how many times slower everything is after so many tokens and seconds; at each of the ``pauses``, by tokens, nothing
    runs for so many seconds.
    """

    rows: Mapping[str, Rows]
    chances: Mapping[str, float | Callable[[int], float]]
    slow: Mapping[str, Callable[[int], float]] = field(default_factory=dict)
    real: Mapping[str, Rows] = field(default_factory=dict)
    machine: Callable[[int, float], float] = lambda tokens, seconds: 1.0
    pauses: Sequence[tuple[int, float]] = ()
    levels: tuple[Level, ...] = (level("small", "drafter", 0.8),)
    nodes: int = 12
    trees: bool = True
    noise: float = 0.05
    step_ms: float = 0.1
    node_ms: float = 0.05
    choice_ms: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.tokens = 0
        self.seconds = 0.0
        self.paused = 0.0
        self._slowdown = -1, 1.0
        self._to_come = sorted(self.pauses)
        self._sure: list[float] = []
        self._main = 0
        self.calibrations = {each.name: ConfidenceCalibration() for each in self.levels}
        self.costs = self._costs(self.rows)
        self._real = self._costs({**self.rows, **self.real})

    def _costs(self, levels: Mapping[str, Rows]) -> MeasuredCosts:
        """What a calibration finds where rows of ``levels`` cost that."""
        table = {name: make_row_costs({128: {k: ms / 1e3 for k, ms in rows.items()}}) for name, rows in levels.items()}
        node = {"chain": self.node_ms / 1e3, "tree": 2 * self.node_ms / 1e3}
        return MeasuredCosts(table, self.step_ms / 1e3, node, 5e-5, 30e9, 2, "native", True)

    def forward(self, name: str, rows: int) -> float:
        """Seconds that a forward really takes, and a pause if there is one in it."""
        usual, paused = self._best_decision(name, rows), 0.0
        # Nobody is held up more often than their share of the time.
        is_due = bool(self._to_come) and self._to_come[0][0] <= self.tokens
        if is_due and self.random.random() < usual / self._best_decision("target", 1):
            paused = self._to_come.pop(0)[1]
        self.paused += paused
        return usual * self.random.lognormvariate(0.0, self.noise) + paused

    def _best_decision(self, name: str, rows: int) -> float:
        if self._slowdown[0] != self.tokens:  # the same for a whole step
            self._slowdown = self.tokens, self.machine(self.tokens, self.seconds)
        factor = self.slow.get(name, lambda tokens: 1.0)(self.tokens) * self._slowdown[1]
        return self._real.levels[name].seconds(rows, 128) * factor

    def plain_seconds(self) -> float:
        """What a token takes now that is decoded plainly."""
        return self._best_decision("target", 1) + self.step_ms / 1e3

    def behind(self, name: str) -> int:
        """Rows that a level must read before it drafts."""
        return 1

    def chance(self, name: str) -> float:
        """The chance that a token of a level is the target's, now."""
        chance = self.chances[name]
        return chance(self.tokens) if callable(chance) else chance

    def step(self, pick: Pick) -> Step:
        """What a step with ``pick`` brings, and what it takes."""
        self._sure = []
        drafted, accepted, depth, drafting, below = self._draft(pick)
        target = self.forward("target", 1 + drafted)
        beside = drafted * self.node_ms if pick.limit.shape == "tree" or below else 0.0
        seconds = target + drafting + (self.step_ms + beside) / 1e3
        self.tokens += accepted + 1
        self.seconds += seconds
        return Step(
            tokens=(1,) * (accepted + 1),
            sources=("x",) * (accepted + 1),
            num_drafted=drafted,
            num_accepted=accepted,
            draft_seconds=drafting,
            target_seconds=target,
            seconds=seconds,
            pick=pick,
            depth=depth,
            main_drafted=depth,
            main_accepted=min(accepted, self._main),
            chances=tuple(self._sure[: accepted + 1]),
            below=below,
        )

    def _draft(self, pick: Pick) -> tuple[int, int, int, float, tuple[Step, ...]]:
        if pick.drafter is None:
            return 0, 0, 0, 0.0, ()
        if pick.drafter == "suffix":
            drafted, accepted = self._repeat(pick.limit)
            return drafted, accepted, drafted, 5e-5, ()
        if ">" in pick.drafter:
            return self._hierarchy(pick)
        name, limit = pick.drafter, pick.limit
        if limit.shape == "chain":
            drafted, accepted = self._chain(name, limit)
            drafting = sum(self.forward(name, 1) for _ in range(drafted)) + drafted * self.node_ms / 1e3
            return drafted, accepted, drafted, drafting, ()
        accepted = self._accepted(name, limit)
        rows = [max(1, limit.nodes * depth // limit.depth) for depth in range(limit.depth)]
        drafting = sum(self.forward(name, count) for count in rows) + limit.nodes * self.node_ms / 1e3
        return limit.nodes, accepted, limit.depth, drafting, ()

    def _repeat(self, limit: DraftLimit) -> tuple[int, int]:
        """Tokens drafted and accepted of the suffix drafter."""
        drafted = 3 if self.random.random() < self.chance("suffix") else 0
        return drafted, drafted

    def _chain(self, name: str, limit: DraftLimit) -> tuple[int, int]:
        """Tokens drafted and accepted: every token has a chance of its own, which the drafter knows."""
        chance, survival, drafted, accepted, stands = self.chance(name), 1.0, 0, 0, True
        for drafted in range(1, limit.nodes + 1):
            own = self.random.betavariate(2 * chance + 1e-6, 2 * (1 - chance) + 1e-6)
            survival *= own
            self._sure.append(own)
            stands = stands and self.random.random() < own
            accepted += stands
            if limit.floor and not is_worth_extending(survival, drafted, limit.floor):
                break
        self._main = accepted
        if not limit.floor:
            self._sure.clear()
        return drafted, accepted

    def _accepted(self, name: str, limit: DraftLimit, ahead: int = 0) -> int:
        """How deep the walk goes: at every depth a chain's child, or one of a tree's siblings, is right.

        The draft begins so many tokens ``ahead`` of the text.
        """
        any_child = chance = self.chance(name)
        if limit.shape == "tree":  # the same mean number of tokens, spread over the depths
            mean = tree_tokens([chance] * limit.depth, limit.nodes) - 1
            any_child = _chance_for(mean, limit.depth)
        depth = self._main = 0
        while depth < limit.depth and (luck := self.random.random()) < any_child:
            self._main += self._main == depth and luck < chance
            depth += 1
        return depth

    def _hierarchy(self, pick: Pick) -> tuple[int, int, int, float, tuple[Step, ...]]:
        lower, middle = pick.drafter.split(">")  # type: ignore[union-attr]
        inner = pick.limit.inner
        assert inner is not None
        drafted, drafting, below = 0, 0.0, []
        while drafted < max(1, pick.limit.depth - inner.depth):
            accepted = self._accepted(f"{lower}>{middle}", inner, drafted)
            guesses = inner.depth if lower in self.rows else 0
            seconds = self.forward(middle, 1 + inner.nodes) + sum(self.forward(lower, 1) for _ in range(guesses))
            drafting += seconds
            drafted = min(drafted + accepted + 1, pick.limit.depth)
            below.append(
                Step(
                    tokens=(1,) * (accepted + 1),
                    sources=("x",) * (accepted + 1),
                    num_drafted=inner.nodes,
                    num_accepted=accepted,
                    draft_seconds=0.0,
                    target_seconds=seconds,
                    seconds=seconds,
                    pick=Pick(lower, inner),
                    depth=inner.depth,
                    main_drafted=inner.depth,
                    main_accepted=min(accepted, self._main),
                )
            )
        accepted = self._accepted(middle, DraftLimit(drafted, drafted))
        return drafted, accepted, drafted, drafting, tuple(below)


@lru_cache(maxsize=1000)
def _chance_for(mean: float, depth: int) -> float:
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(middle**i for i in range(1, depth + 1)) < mean else (low, middle)
    return low


class Ticks:
    """A clock by which every choice takes so many seconds."""

    def __init__(self, choice: float = 2e-4) -> None:
        self.seconds, self._choice, self._looks = 0.0, choice, 0

    def __call__(self) -> float:
        self._looks += 1
        self.seconds += self._choice if self._looks % 2 == 0 else 0.0
        return self.seconds


class Situated:
    """A situation in which everything is open and nothing is behind."""

    def __init__(self, world: World, closed: frozenset[str] = frozenset()) -> None:
        self._world, self.closed = world, closed

    def room(self) -> Room:
        return Room(self._world.nodes, self._world.trees)

    def length(self) -> int:
        return self._world.tokens

    def behind(self, name: str) -> int | None:
        return None if name in self.closed else self._world.behind(name)


def learned_state_of(world: World, only: Kind | None = None) -> LearnedState:
    """What a scheduler knows at the beginning."""
    stage = Stage(world.levels, world.calibrations, lambda name: Room(12, True), lambda name: False)
    methods = make_methods(stage, only)
    return LearnedState(methods, LatencyEstimates(world.costs, "target", lambda rows: rows))


def run(world: World, tokens: int, scheduler: object | None = None) -> Iterator[Step]:
    """Steps until ``tokens`` more tokens are there."""
    chosen = scheduler or CostScheduler(learned_state_of(world), Situated(world), Ticks())
    end, step = world.tokens + tokens, None
    while world.tokens < end:
        step = world.step(chosen.pick(step))  # type: ignore[attr-defined]
        yield step


def rate(world: World, tokens: int, scheduler: object | None = None) -> float:
    """Tokens a second over ``tokens`` tokens."""
    start, before = world.seconds, world.tokens
    for _ in run(world, tokens, scheduler):
        pass
    return (world.tokens - before) / (world.seconds - start)
