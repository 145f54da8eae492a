"""What every constant of the scheduler is worth: each is doubled and removed, in many simulated and recorded worlds.

``python -m tests.runtime.scheduler.ablation`` prints the table that stands in the scheduler's page. A cell has how much
more is delivered with the changed constant, as the mean over all worlds and in the world that loses most. Both versions
meet the same worlds, seed by seed, so a difference has an error of its own: from how much it varies between the seeds
of one world, over all worlds.
"""

from __future__ import annotations

import argparse
import importlib
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import product
from types import ModuleType

from memory.machine import measured_on
from runtime.decoding.draft import Pick, Step
from tests.runtime.scheduler.judge import speedup, trace
from tests.runtime.scheduler.recorded import RECORDED, Recorded
from tests.runtime.scheduler.test_worlds import ANSWERS, MISJUDGED, ROWS, make_world, mistaken
from tests.runtime.scheduler.world import World

# Text, drafter and event; each with every row cost.
_SETTINGS = (
    ("easy", "good", "throttled by half"),
    ("hard", "bad", "held up again and again"),
    ("changing", "stack", "a stolen core"),
)
_PROMPT = 1000
_ENDLESS = 1e9
# A mean change of so many errors is measured, and one of a single world, of which there are many.
_MEASURED, _MEASURED_ALONE = 2.0, 4.0
# Losses below these are nothing that anyone feels.
_FELT, _FELT_ALONE = 0.005, 0.02
# All constants of the scheduler, with twice the value and the value that is as if there were none. Instead of twice a
# share it is half of it, or twice its distance from 1. A number of a pair has its place behind the name.
CONSTANTS: dict[str, tuple[float, float]] = {
    "acceptance_stats._MEMORY": (0.984, 1.0),
    "acceptance_stats._LATEST": (0.6, 0.0),
    "acceptance_stats._SURPRISE": (0.8, _ENDLESS),
    "acceptance_stats._PRIOR_WEIGHT": (16.0, 0.1),
    "acceptance_stats._LATEST_SECONDS": (0.5, 1.0),
    "acceptance_stats._FEW": (4.0, 0.01),
    "acceptance_stats._POOLED_WEIGHT": (8.0, 0.01),
    "acceptance_stats._TEXT_SHARE": (0.3, 0.0),
    "acceptance_stats._MOST_SHIFT": (4.0, _ENDLESS),
    "acceptance_stats._LEAST": (0.04, 1e-6),
    "cost_based._CHOOSING": (0.008, _ENDLESS),
    "cost_based._LOOKS": (32, 1),
    "cost_based._STALE_TOKENS": (32, 0),
    "cost_based._HOPELESS": (0.3, 0.0),
    "cost_based._HORIZON_TOKENS": (128.0, _ENDLESS),
    "cost_based._LONGER": (6, 0),
    "cost_based._DEARER": (3.0, _ENDLESS),
    "forecast.NEARLY": (0.96, 1.0),
    "latency._BUCKET": (256, 1_000_000),
    "latency._MOST_CHANGE": (8.0, _ENDLESS),
    "latency._MOST_CHANGE_OF_ROWS": (1.5, _ENDLESS),
    "latency._MOST_BESIDE": (0.2, _ENDLESS),
    "latency.FEW_ROWS": (8, 0),
    "learned_state._LOST_STEPS": (4.0, _ENDLESS),
    "learned_state._LOST_SHARE": (0.02, 0.0),
    "learned_state._NEXT_ANSWER": (0.5, 1.0),
    "methods._HITS": (0.2, 1.0),
    "methods._DRAFTED": (6.0, 1.0),
    "methods._ACCEPTED": (3.0, 1.0),
    "row_slope._NOISE": (0.3, 1e-3),
    "row_slope._UNSURE": (0.8, 1e-3),
    "row_slope._LATEST_NOISE": (0.2, 0.0),
    "row_slope._DRIFT": (6e-4, 0.0),
    "row_slope._CONTRADICTS": (6.0, _ENDLESS),
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


def _worlds() -> dict[str, Callable[[int], World]]:
    """The worlds of every seed, by name."""
    found: dict[str, Callable[[int], World]] = dict(RECORDED)
    for rows, (text, drafter, event) in product(ROWS, _SETTINGS):
        found[f"{rows}, {text}, {drafter}, {event}"] = partial(make_world, rows, text, drafter, event)
    for believed, true in MISJUDGED:
        found[f"{believed} that is {true}"] = partial(mistaken, believed, true)
    for rows in ROWS:
        found[f"{rows}, after a prompt"] = partial(_reading, rows)
        found[f"{rows}, tiny"] = partial(_tiny, rows)
    return found


WORLDS = _worlds()


def delivered(seeds: Sequence[int]) -> dict[str, list[float]]:
    """By world, for every seed, the logarithm of the speed over plain decoding; of the scheduler as it is now."""
    found = {}
    for name, make in WORLDS.items():
        worlds = [make(seed) for seed in seeds]
        traces = [trace(world, world.lengths if isinstance(world, Recorded) else ANSWERS) for world in worlds]
        found[name] = [math.log(speedup(moments, 0, len(moments) * sum(ANSWERS))) for moments in traces]
    return found


def cell(before: Mapping[str, list[float]], after: Mapping[str, list[float]]) -> str:
    """The mean change with its error, and the largest loss of a single world, in percent; bold if it is measured."""
    changes = {name: [new - old for old, new in zip(before[name], after[name], strict=True)] for name in before}
    count = len(next(iter(changes.values())))
    error = math.sqrt(statistics.mean(map(statistics.variance, changes.values())) / count)
    name = min(changes, key=lambda each: statistics.mean(changes[each]))
    mean, worst = statistics.mean(map(statistics.mean, changes.values())), statistics.mean(changes[name])
    mean_error = error / math.sqrt(len(changes))
    text = f"{100 * mean:+.1f} ± {100 * mean_error:.1f}, {100 * worst:+.0f} {name}"
    in_all = mean < min(-_MEASURED * mean_error, -_FELT)
    alone = worst < min(-_MEASURED_ALONE * error, -_FELT_ALONE)
    return f"**{text}**" if in_all or alone else text


def _find(constant: str) -> tuple[ModuleType, str, int | None]:
    """The module, the name, and the place in a pair."""
    module, _, name = constant.rpartition(".")
    name, _, place = name.partition("[")
    return importlib.import_module(f"runtime.scheduler.{module}"), name, int(place[0]) if place else None


def _value(constant: str) -> float:
    module, name, place = _find(constant)
    held = getattr(module, name)
    return float(held if place is None else held[place])


@contextmanager
def _set(constant: str, value: float) -> Iterator[None]:
    """Sets a constant in every module of the scheduler that has it."""
    module, name, place = _find(constant)
    before = getattr(module, name)
    after = value if place is None else (*before[:place], value, *before[place + 1 :])
    everywhere = [each for key, each in sys.modules.items() if key.startswith("runtime.scheduler")]
    having = [module] if name.startswith("_") else [each for each in everywhere if hasattr(each, name)]
    for each in having:
        setattr(each, name, after)
    try:
        yield
    finally:
        for each in having:
            setattr(each, name, before)


def main() -> None:
    """Prints the table row by row, and on stderr how far it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("constants", nargs="*", help="only these, as MODULE.NAME; all if none is given")
    parser.add_argument("--seeds", type=int, default=4, help="worlds of every kind, at least 2")
    options = parser.parse_args()
    seeds = range(options.seeds)
    print(f"{len(WORLDS)} worlds, {options.seeds} seeds; {measured_on(())}\n", flush=True)
    print("| constant | value | doubled | removed |\n| --- | --- | --- | --- |", flush=True)
    before, names = delivered(seeds), options.constants or list(CONSTANTS)
    for number, name in enumerate(names, 1):
        print(f"{number} of {len(names)}: {name}", file=sys.stderr, flush=True)
        cells = []
        for other in CONSTANTS[name]:
            with _set(name, other):
                cells.append(cell(before, delivered(seeds)))
        print(f"| `{name}` | {_value(name):g} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
