"""What every constant of the scheduler is worth: each is halved, doubled and removed, in many simulated worlds.

``python -m tests.runtime.scheduler.ablation`` prints the table that stands in the scheduler's page. Each cell has what
was delivered as a share of what the best fixed choice in hindsight delivers, as the mean over the worlds and in the
worst of them, and the worst 100 tokens as a multiple of plain decoding's rate.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import product
from types import ModuleType

from runtime.decoding.draft import Pick, Step
from tests.runtime.scheduler.judge import best_fixed, speedup, trace, worst_window
from tests.runtime.scheduler.test_worlds import ANSWERS, MISJUDGED, ROWS, make_world, mistaken
from tests.runtime.scheduler.world import World

# Text, drafter and event; each with every row cost.
_SETTINGS = (
    ("easy", "good", "throttled by half"),
    ("hard", "bad", "held up again and again"),
    ("changing", "stack", "a stolen core"),
)
# The best fixed choice is judged in other worlds than the scheduler.
_BEST_SEEDS = range(100, 112)
_PROMPT = 1000
_ENDLESS = 1e9
# All constants of the scheduler, with the value that is as if there were none.
CONSTANTS = {
    "acceptance_stats._REMEMBERED": _ENDLESS,
    "acceptance_stats._PRIOR_WEIGHT": 0.1,
    "acceptance_stats._LATEST": 1.0,
    "acceptance_stats._SURPRISE": _ENDLESS,
    "acceptance_stats.UNKNOWN_CHANCE": 0.0,
    "cost_based._CHOOSING": _ENDLESS,
    "cost_based._LOOKS": _ENDLESS,
    "cost_based._STALE_TOKENS": 0.0,
    "cost_based._HOPELESS": 0.0,
    "cost_based._HORIZON_TOKENS": _ENDLESS,
    "forecast.NEARLY": 1.0,
    "latency._LATEST": 1.0,
    "latency.FEW_ROWS": _ENDLESS,
    "latency._MOST_BESIDE": _ENDLESS,
    "learned_state._LOST_STEPS": _ENDLESS,
    "learned_state._LOST_SHARE": 0.0,
    "learned_state._NEXT_ANSWER": 1.0,
    "methods.model_free._HITS": 1.0,
    "methods.model_free._DRAFTED": 1.0,
    "row_slope._NOISE": 1e-3,
    "row_slope._UNSURE": 1e-3,
    "row_slope._CONTRADICTS": _ENDLESS,
}


class Reading(World):
    """A world in which a level must read the prompt, and what was decoded without it, before it drafts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._read = dict.fromkeys(self.rows, -_PROMPT)

    def behind(self, name: str) -> int:
        return self.tokens - self._read[name] + 1

    def step(self, pick: Pick) -> Step:
        levels = [name for name in (pick.drafter or "").split(">") if name in self._read]
        rows = sum(self.behind(name) for name in levels)
        reading = sum(self.forward(name, self.behind(name)) for name in levels if self.behind(name) > 4)
        step = super().step(pick)
        self._read.update(dict.fromkeys(levels, self.tokens))
        self.seconds += reading
        return replace(step, draft_seconds=step.draft_seconds + reading, seconds=step.seconds + reading, rows_read=rows)


def _reading(rows: str, seed: int) -> World:
    world = make_world(rows, "easy", "good", "nothing", seed)
    return Reading(world.rows, world.chances, levels=world.levels, seed=seed)


def _tiny(rows: str, seed: int) -> World:
    """A model a hundred times smaller, where choosing takes as long as a step."""
    target = {count: ms / 100 for count, ms in ROWS[rows].items()}
    small = {count: ms / 100 for count, ms in make_world(rows, "easy", "good", "nothing", 0).rows["small"].items()}
    chances = {"small": 0.9, "suffix": 0.03}
    return World({"target": target, "small": small}, chances, step_ms=0.015, node_ms=0.002, seed=seed)


def _worlds() -> dict[str, tuple[Callable[[int], World], Callable[[int], World]]]:
    """By name: the worlds of every seed, and those in which the best fixed choice is found."""
    found: dict[str, tuple[Callable[[int], World], Callable[[int], World]]] = {}
    for rows, (text, drafter, event) in product(ROWS, _SETTINGS):
        make, calm = (partial(make_world, rows, text, drafter, each) for each in (event, "nothing"))
        found[f"{rows}, {text}, {drafter}, {event}"] = make, calm
    for believed, true in MISJUDGED:
        found[f"{believed} that is {true}"] = (partial(mistaken, believed, true),) * 2
    for rows in ROWS:
        found[f"{rows}, after a prompt"] = (partial(_reading, rows),) * 2
        found[f"{rows}, tiny"] = (partial(_tiny, rows),) * 2
    return found


WORLDS = _worlds()


@dataclass(frozen=True)
class Score:
    """Mean and least of delivered/best over the worlds, and the worst 100 tokens against plain decoding."""

    mean: float
    worst: float
    window: float

    def __str__(self) -> str:
        return " ".join(f"{value:.3f}" for value in (self.mean, self.worst, self.window))


@lru_cache
def _best(name: str) -> float:
    return best_fixed(WORLDS[name][1], _BEST_SEEDS, sum(ANSWERS))[0]


def by_world(seeds: Sequence[int]) -> dict[str, tuple[float, float]]:
    """Delivered over best, and the worst 100 tokens, by the name of the world."""
    found = {}
    for name, (make, _) in WORLDS.items():
        traces = [trace(make(seed), ANSWERS) for seed in seeds]
        delivered = statistics.harmonic_mean([speedup(moments, 0, sum(ANSWERS)) for moments in traces])
        found[name] = delivered / _best(name), min(map(worst_window, traces))
    return found


def score(seeds: Sequence[int]) -> Score:
    """The scheduler as it is now."""
    found = by_world(seeds).values()
    near = [each for each, _ in found]
    return Score(statistics.mean(near), min(near), min(window for _, window in found))


def tried(constant: str, removed: float) -> list[float]:
    """The values that take the place of a constant: half of it, twice as much, and what it is without it."""
    value = getattr(*_find(constant))
    # A closeness to 1 is halved and doubled as its distance from it.
    halves = ((1 + value) / 2, 2 * value - 1) if 0.9 < value < 1 else (value / 2, 2 * value)
    return [*halves, removed]


def _find(constant: str) -> tuple[ModuleType, str]:
    module, _, name = constant.rpartition(".")
    return importlib.import_module(f"runtime.scheduler.{module}"), name


@contextmanager
def _set(constant: str, value: float) -> Iterator[None]:
    """Sets a constant in every module of the scheduler that has it."""
    module, name = _find(constant)
    before = getattr(module, name)
    everywhere = [each for key, each in sys.modules.items() if key.startswith("runtime.scheduler")]
    having = [module] if name.startswith("_") else [each for each in everywhere if hasattr(each, name)]
    for each in having:
        setattr(each, name, value)
    try:
        yield
    finally:
        for each in having:
            setattr(each, name, before)


def main() -> None:
    """Prints the table row by row, and on stderr how far it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("constants", nargs="*", help="only these, as MODULE.NAME; all if none is given")
    parser.add_argument("--seeds", type=int, default=4, help="worlds of every kind")
    options = parser.parse_args()
    seeds = range(options.seeds)
    print("| constant | value | halved | doubled | removed |\n| --- | --- | --- | --- | --- |")
    print(f"| as they are | | {score(seeds)} | | |", flush=True)
    names = options.constants or list(CONSTANTS)
    for number, name in enumerate(names, 1):
        print(f"{number} of {len(names)}: {name}", file=sys.stderr, flush=True)
        cells = []
        for value in tried(name, CONSTANTS[name]):
            with _set(name, value):
                cells.append(str(score(seeds)))
        print(f"| `{name}` | {getattr(*_find(name)):g} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
