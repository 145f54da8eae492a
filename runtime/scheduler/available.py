"""Which decoding methods a bundle has: one for every drafter with every kind of draft."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Literal, get_args

from export.manifest import Level
from memory.drafter_spec import hierarchy, overlapped
from runtime.drafters.confidence import ConfidenceCalibration
from runtime.drafters.registry import registered
from runtime.scheduler.acceptance_stats import AcceptanceStats, TextEase
from runtime.scheduler.forecast import Room
from runtime.scheduler.methods import Chains, DecodingMethod, Hierarchies, ModelFree, Overlaps, Plain, Trees

Kind = Literal["plain", "model-free", "chain", "tree", "hierarchy", "ahead"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Stage:
    """The ``levels`` below the target, and ``calibrations`` of their drafters' confidence.

    ``room`` gives what a level can judge, and ``apart`` whether it runs on cores that the target leaves alone.
    ``files`` are those of the bundle.
    """

    levels: Sequence[Level]
    calibrations: Mapping[str, ConfidenceCalibration]
    room: Callable[[str], Room]
    apart: Callable[[str], bool]
    files: Collection[str] = ()


def make_methods(stage: Stage, only: Kind | None = None) -> list[DecodingMethod]:
    """All methods, or ``only`` those of one kind, as before the first step; they share what they learn about a level.

    Acceptance is first estimated as the drafter's agreement with the target, also where an intermediate judges. Where
    that was not measured, a drafter is taken to be perfect: it is found out at little cost.
    """
    text = TextEase()
    judged = {level.name: AcceptanceStats(_agreement(level), text) for level in stage.levels}
    found: list[tuple[Kind, DecodingMethod]] = [("plain", Plain())]
    found += [
        ("model-free", ModelFree(drafter.name, drafter.longest, drafter.shape))
        for drafter in registered(stage.files).values()
    ]
    for level in stage.levels:
        name, acceptance = level.name, judged[level.name]
        found.append(("chain", Chains(name, acceptance, stage.calibrations[name], level.longest)))
        if level.parallel is None:
            found.append(("tree", Trees(name, acceptance)))
        if stage.apart(name) and not level.reads:
            found.append(("ahead", Overlaps(overlapped(name).name, name, acceptance)))
    for middle, lower in product(stage.levels, repeat=2):
        if (middle.role, lower.role) == ("intermediate", "drafter") and not lower.reads:
            levels = lower.name, middle.name
            acceptances = judged[middle.name], AcceptanceStats(_agreement(lower))
            room = partial(stage.room, middle.name)
            found.append(("hierarchy", Hierarchies(hierarchy(*levels).name, levels, acceptances, room)))
    return [method for kind, method in found if only in (None, kind)]


def _agreement(level: Level) -> float:
    return 1.0 if level.agreement is None else level.agreement
