"""Which decoding methods a bundle has: one for every drafter with every kind of draft."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

from export.manifest import Level
from memory.drafter_spec import hierarchy, overlapped
from runtime.drafters.confidence import ConfidenceCalibration
from runtime.drafters.registry import registered
from runtime.scheduler.acceptance_stats import UNKNOWN_CHANCE, AcceptanceStats, TextEase
from runtime.scheduler.forecast import Room
from runtime.scheduler.methods import DecodingMethod
from runtime.scheduler.methods.chains import Chains
from runtime.scheduler.methods.hierarchies import Hierarchies
from runtime.scheduler.methods.model_free import ModelFree
from runtime.scheduler.methods.overlaps import Overlaps
from runtime.scheduler.methods.plain import Plain
from runtime.scheduler.methods.trees import Trees

Kind = Literal["plain", "model-free", "chain", "tree", "hierarchy", "ahead"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Stage:
    """The ``levels`` below the target, and ``calibrations`` of their drafters' confidence.

    ``room`` gives what a level can judge, and ``apart`` whether it runs on cores that the target leaves alone.
    """

    levels: Sequence[Level]
    calibrations: Mapping[str, ConfidenceCalibration]
    room: Callable[[str], Room]
    apart: Callable[[str], bool]


def make_methods(stage: Stage, only: Kind | None = None) -> list[DecodingMethod]:
    """All methods, or ``only`` those of one kind, as before the first step; they share what they learn about a level.

    The first estimate of a drafter's acceptance is its agreement with the target; for the drafter of an intermediate,
    too.
    """
    text = TextEase()
    judged = {level.name: AcceptanceStats(_prior(level), text) for level in stage.levels}
    found: list[tuple[Kind, DecodingMethod]] = [("plain", Plain())]
    found += [("model-free", ModelFree(drafter.name, drafter.longest)) for drafter in registered().values()]
    for name, acceptance in judged.items():
        found.append(("chain", Chains(name, acceptance, stage.calibrations[name])))
        found.append(("tree", Trees(name, acceptance)))
        if stage.apart(name):
            found.append(("ahead", Overlaps(overlapped(name).name, name, acceptance)))
    for middle, lower in product(stage.levels, repeat=2):
        if (middle.role, lower.role) == ("intermediate", "drafter"):
            found.append(("hierarchy", _hierarchy(stage, lower, middle.name, judged[middle.name])))
    return [method for kind, method in found if only in (None, kind)]


def _hierarchy(stage: Stage, lower: Level, middle: str, outer: AcceptanceStats) -> Hierarchies:
    name, inner = hierarchy(lower.name, middle).name, AcceptanceStats(_prior(lower))
    return Hierarchies(name, lower.name, middle, outer, inner, lambda: stage.room(middle))


def _prior(level: Level) -> float:
    return UNKNOWN_CHANCE if level.agreement is None else level.agreement
