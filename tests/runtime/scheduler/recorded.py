"""Worlds made of recorded answers: what two draft models guessed at every place of real texts, and real costs.

``recorded.json`` has answers of the demo family (its target enlarged to the cost of a 1.5B model, its drafter as
``small``, its intermediate as ``middle``). For every place there is how many tokens of a chain would have been
accepted, and of trees of several sizes, so any pick gets what it would have got then. Simulated chances are the same at
all depths and places; in these texts they rise with depth, and one answer is nothing like the next.
"""

from __future__ import annotations

import json
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from pathlib import Path

from export.manifest import Level
from memory.costs import MeasuredCosts, RowCosts, make_row_costs
from memory.plan import Shape
from runtime.decoding.draft import DraftLimit, Pick, Step
from runtime.drafters.confidence import is_worth_extending
from runtime.scheduler.latency import FEW_ROWS
from tests.runtime.scheduler.world import FLAT, Rows, World, level

_FILE = Path(__file__).with_name("recorded.json")
# Milliseconds of rows when nothing else ran, and as the calibration of that bundle found them while other programs did,
# for texts of 63 and of 249 tokens.
QUIET: Mapping[str, Rows] = {
    "target": {1: 35.0, 2: 36.5, 4: 40.6, 8: 51.0, 16: 76.7},
    "small": {1: 0.12, 4: 0.12, 8: 0.15, 16: 0.24},
    "middle": {1: 0.55, 4: 0.65, 8: 0.85, 16: 1.5},
}
BUSY: Mapping[str, Mapping[int, Rows]] = {
    "target": {
        63: {1: 39.6, 2: 43.2, 4: 45.4, 8: 47.8, 16: 69.5},
        249: {1: 46.4, 2: 50.0, 4: 52.2, 8: 64.4, 16: 99.7},
    },
    "small": {63: {1: 0.21, 8: 0.21, 16: 0.26}},
    "middle": {63: {1: 0.60, 4: 0.60, 8: 0.75, 16: 1.08}, 249: {1: 0.60, 4: 0.64, 8: 0.79, 16: 1.33}},
}
BUSY_NODES: Mapping[Shape, float] = {"chain": 1.31e-4, "tree": 3.43e-4}
# The most tokens that a draft model reviews when it has caught up: one fewer than a forward of this plan has rows.
_REVIEWED = 15
# The share of all forwards that take longer because of something else, and by how much at most.
_HELD_UP, _LONGEST = 0.04, 3.0
# A virtual machine among noisy others: the logarithm of a forward's seconds varies by this much, and half of it lasts
# until the next one (635 forwards of the same target with 1 to 8 rows in turns: 0.36 and 0.49).
_UNSTEADY, _LASTING = 0.36, 0.5


@dataclass(frozen=True)
class Guesses:
    """What a model guessed, place by place: accepted tokens of a chain, its confidence in each, and of trees."""

    chain: Sequence[int]
    sure: Sequence[Sequence[float]]
    trees: Mapping[tuple[int, int], Sequence[int]]

    def tree(self, limit: DraftLimit, place: int) -> int:
        """Accepted tokens of a tree, or of the next smaller one that was recorded."""
        known = [nodes for nodes, depth in self.trees if depth == limit.depth and nodes <= limit.nodes]
        return self.trees[max(known), limit.depth][place] if known else min(self.chain[place], limit.depth)


@dataclass(frozen=True)
class Answer:
    """One answer: ``repeats`` are tokens drafted and accepted of the suffix drafter, ``inner`` what middle accepts."""

    guesses: Mapping[str, Guesses]
    inner: Sequence[int]
    repeats: Sequence[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.inner)


@cache
def recorded_answers() -> Sequence[Answer]:
    """All that were recorded."""
    return [_read(entry) for entry in json.loads(_FILE.read_text("utf-8"))["answers"]]


def _read(entry: Mapping[str, object]) -> Answer:
    levels = {}
    for name in ("small", "middle"):
        found: Mapping[str, str] = entry[name]  # type: ignore[assignment]
        trees = {}
        for key, value in found.items():
            if "x" in key:
                nodes, depth = map(int, key.split("x"))
                trees[nodes, depth] = _digits(value)
        sure = [[(ord(each) - 47) / 64 for each in word] for word in found["sure"].split(" ")]
        levels[name] = Guesses(_digits(found["chain"]), sure, trees)
    repeats = list(zip(_digits(str(entry["suffix drafted"])), _digits(str(entry["suffix accepted"])), strict=True))
    return Answer(levels, _digits(str(entry["inner"])), repeats)


def _digits(text: str) -> list[int]:
    return [int(each, 16) for each in text]


@dataclass
class Recorded(World):
    """Recorded answers, one after another in an order that the seed decides.

    ``believed`` are rows by level and length of the text as a calibration found them; None: as they really are.
    ``unsteady``: how much the logarithm of the seconds of all forwards varies from one forward to the next.
    """

    levels: tuple[Level, ...] = (level("small", "drafter", 0.62), level("middle", "intermediate", 0.78))
    believed: Mapping[str, Mapping[int, Rows]] | None = None
    noise: float = 0.06
    unsteady: float = 0.0
    step_ms: float = 0.37
    node_ms: float = 0.12
    # With three models and room for 15 nodes; so a choice stands for ten steps, as it did there.
    choice_ms: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._answers = list(recorded_answers())
        random.Random(self.seed).shuffle(self._answers)
        self.lengths = list(map(len, self._answers))
        self._ends = list(accumulate(self.lengths))
        self._luck = random.Random(self.seed + 1)
        self._wave = 0.0
        self._read = dict.fromkeys(("small", "middle"), 0)
        if self.believed is not None:
            found = {name: _row_costs(table) for name, table in self.believed.items()}
            self.costs = MeasuredCosts(found, 2.65e-4, BUSY_NODES, 2.05e-4, 20e9, 2, "native", True)

    def forward(self, name: str, rows: int) -> float:
        """Seconds of a forward, which something else may hold up."""
        longer = self._luck.uniform(1.0, _LONGEST) if self._luck.random() < _HELD_UP else 1.0
        if self.unsteady and name == "target":
            fresh = self._luck.gauss(0.0, self.unsteady * math.sqrt(1 - _LASTING**2))
            self._wave = _LASTING * self._wave + fresh
        return super().forward(name, rows) * longer * math.exp(self._wave)

    def behind(self, name: str) -> int:
        """Rows that a level must read before it drafts: of the text since it drafted last, and the last token."""
        return self.tokens - self._read[name] + 1

    def step(self, pick: Pick) -> Step:
        """A step before which the levels of the drafter catch up with the text; one that drafts alone reviews it."""
        levels = [name for name in (pick.drafter or "").split(">") if name in self._read]
        late = {name: self.behind(name) for name in levels if self.behind(name) > FEW_ROWS}
        reading = sum(self.forward(name, rows) for name, rows in late.items())
        reviewed: tuple[bool, ...] = ()
        if len(levels) == len(late) == 1:
            reviewed = tuple(self._was_right(levels[0], place) for place in range(self.tokens - _REVIEWED, self.tokens))
        step = super().step(pick)
        self._read.update(dict.fromkeys(levels, self.tokens))
        self.seconds += reading
        return replace(
            step,
            draft_seconds=step.draft_seconds + reading,
            seconds=step.seconds + reading,
            rows_read=sum(late.values()),
            reviewed=reviewed,
        )

    def _was_right(self, name: str, token: int) -> bool:
        """Whether a level guesses this token of all the text."""
        number = bisect_right(self._ends, token)
        answer = self._answers[number] if 0 <= token < self._ends[-1] else None
        return answer is not None and answer.guesses[name].chain[token - self._ends[number]] > 0

    def _place(self, ahead: int = 0) -> tuple[Answer, int]:
        """The present answer, and the place in it ``ahead`` of the text, at most the last one."""
        number = min(bisect_right(self._ends, self.tokens), len(self._ends) - 1)
        answer = self._answers[number]
        return answer, min(self.tokens + ahead - self._ends[number], -1) + len(answer)

    def _repeat(self, limit: DraftLimit) -> tuple[int, int]:
        answer, place = self._place()
        drafted, accepted = answer.repeats[place]
        return min(drafted, limit.nodes), min(accepted, limit.nodes)

    def _chain(self, name: str, limit: DraftLimit) -> tuple[int, int]:
        answer, place = self._place()
        guesses, survival, drafted = answer.guesses[name], 1.0, 0
        for sure in guesses.sure[place] if limit.floor else ():
            drafted += 1
            self._sure.append(sure)
            survival *= self.calibrations[name](sure)
            if drafted == limit.nodes or not is_worth_extending(survival, drafted, limit.floor):
                break
        drafted = drafted or limit.nodes
        self._main = guesses.chain[place]
        return drafted, min(guesses.chain[place], drafted)

    def _accepted(self, name: str, limit: DraftLimit, ahead: int = 0) -> int:
        answer, place = self._place(ahead)
        drafter, _, judge = name.partition(">")
        guesses = answer.guesses[drafter]
        chain = answer.inner[place] if judge else guesses.chain[place]
        self._main = chain
        return guesses.tree(limit, place) if limit.shape == "tree" else min(chain, limit.depth)


def _row_costs(table: Mapping[int, Rows]) -> RowCosts:
    return make_row_costs({context: {k: ms / 1e3 for k, ms in rows.items()} for context, rows in table.items()})


STEEPER: Mapping[str, Rows] = {**QUIET, "target": FLAT}
"""The same texts on a processor on which rows cost more."""

RECORDED: Mapping[str, Callable[[int], Recorded]] = {
    "recorded, busy calibration": lambda seed: Recorded(QUIET, {}, believed=BUSY, seed=seed),
    "recorded": lambda seed: Recorded(QUIET, {}, seed=seed),
    "recorded, unsteady machine": lambda seed: Recorded(QUIET, {}, unsteady=_UNSTEADY, seed=seed),
    "recorded, dearer rows, unsteady machine": lambda seed: Recorded(STEEPER, {}, unsteady=_UNSTEADY, seed=seed),
    "recorded, dearer rows": lambda seed: Recorded(STEEPER, {}, seed=seed),
    "recorded, dearer rows than calibrated": lambda seed: Recorded(STEEPER, {}, believed=BUSY, seed=seed),
}
