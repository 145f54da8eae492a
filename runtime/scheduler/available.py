"""Which decoding methods a bundle has: one for every drafter with every kind of draft."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from export.manifest import Level
from memory.drafter_spec import hierarchy, overlapped
from runtime.drafters.confidence import ConfidenceCalibration
from runtime.drafters.registry import registered
from runtime.scheduler.acceptance_stats import AcceptanceStats, TextEase
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

# Agreement of a drafter that was exported without measuring it: a cautious guess.
_UNKNOWN_AGREEMENT = 0.7
# Two distributions meet on a drawn token less often than their most probable tokens do.
_SAMPLED_FACTOR = 0.8


@dataclass(frozen=True)
class Stage:
    """The ``levels`` below the target, and ``calibrations`` of their drafters' confidence.

    ``room`` gives what a level can judge, and ``apart`` whether it runs on cores that the target leaves alone.
    """

    levels: Sequence[Level]
    calibrations: Mapping[str, ConfidenceCalibration]
    room: Callable[[str], Room]
    apart: Callable[[str], bool]


def make_methods(stage: Stage, sampled: bool, only: Kind | None = None) -> list[DecodingMethod]:
    """All methods, or ``only`` those of one kind, as before the first step.

    The first estimate of a drafter's acceptance is its agreement with the target; for the drafter of an intermediate,
    too.
    """
    found = _Methods(stage, _SAMPLED_FACTOR if sampled else 1.0)
    return [method for kind, method in found.all() if only in (None, kind)]


class _Methods:
    """Methods that share what they learn about a level."""

    def __init__(self, stage: Stage, factor: float) -> None:
        self._stage, self._factor = stage, factor
        text = TextEase()
        self._judged = {level.name: AcceptanceStats(self._prior(level), text) for level in stage.levels}

    def all(self) -> Iterator[tuple[Kind, DecodingMethod]]:
        yield "plain", Plain()
        for drafter in registered().values():
            yield "model-free", ModelFree(drafter.name, drafter.longest)
        for level in self._stage.levels:
            yield "chain", Chains(level.name, self._judged[level.name], self._stage.calibrations[level.name])
            yield "tree", Trees(level.name, self._judged[level.name])
            if self._stage.apart(level.name):
                yield "ahead", Overlaps(overlapped(level.name).name, level.name, self._judged[level.name])
        for middle in self._stage.levels:
            if middle.role == "intermediate":
                for lower in self._stage.levels:
                    if lower.role == "drafter":
                        yield "hierarchy", self._hierarchy(lower, middle)

    def _hierarchy(self, lower: Level, middle: Level) -> DecodingMethod:
        name = hierarchy(lower.name, middle.name).name
        inner, outer = AcceptanceStats(self._prior(lower)), self._judged[middle.name]
        return Hierarchies(name, lower.name, middle.name, outer, inner, lambda: self._stage.room(middle.name))

    def _prior(self, level: Level) -> float:
        return self._factor * (_UNKNOWN_AGREEMENT if level.agreement is None else level.agreement)
