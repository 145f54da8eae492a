"""Acceptance at every level: the share of drafted tokens, and the chance at each depth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from memory.drafter_spec import parse_drafter
from runtime.decoding.draft import Step


@dataclass(frozen=True)
class LevelAcceptance:
    """The acceptance of the ``drafts`` that ``level`` verified; empty ones do not count.

    ``rate`` is the number of accepted tokens over the number of all nodes. ``by_depth[d]`` is the share of drafts whose
    token at depth d was accepted, among those that reach this depth and whose tokens above were accepted.
    """

    level: str
    drafts: int
    rate: float
    by_depth: tuple[float, ...]


def measure_acceptance(steps: Sequence[Step], target: str) -> list[LevelAcceptance]:
    """The acceptance of ``target``, which made these steps, and of every level below that verified drafts."""
    judged = [step for step in steps if step.num_drafted]
    found = [_acceptance(target, judged)] if judged else []
    below: dict[str, list[Step]] = {}
    for step in steps:
        if step.below and step.pick.drafter is not None:
            below.setdefault(parse_drafter(step.pick.drafter).judges[0], []).extend(step.below)
    for name, inner in below.items():
        found += measure_acceptance(inner, name)
    return found


def _acceptance(level: str, judged: Sequence[Step]) -> LevelAcceptance:
    nodes = sum(step.num_drafted for step in judged)
    accepted = sum(step.num_accepted for step in judged)
    return LevelAcceptance(level, len(judged), accepted / nodes, tuple(_by_depth(judged)))


def _by_depth(judged: Sequence[Step]) -> Iterable[float]:
    for depth in range(1, max(step.depth for step in judged) + 1):
        reached = [step for step in judged if step.depth >= depth and step.num_accepted >= depth - 1]
        if not reached:
            return
        yield sum(step.num_accepted >= depth for step in reached) / len(reached)
