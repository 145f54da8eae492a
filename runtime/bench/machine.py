"""What measurements depend on beside the machine (``memory.machine``): its load, and the levels."""

from __future__ import annotations

import os

from export.manifest import Level
from memory.plan import Placement, Plan

_STAND_INS = {"random-weights": "random weights", "timing-vehicle": "timing vehicle"}


def read_load() -> float | None:
    """The average number of runnable processes in the last minute; None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def describe_level(level: Level) -> str:
    """A level in words, with a label if its weights are for timing only."""
    label = "" if level.source.kind == "trained" else f" [{level.source.kind}]"
    block = f" in blocks of {level.quantization.block_size}" if level.quantization.block_size else ""
    return f"{level.source.id}{label}, {level.quantization.weights}{block}, {level.weight_bytes:,} bytes"


def describe_place(plan: Plan, name: str) -> str:
    """Where the level called ``name`` is placed, to be added to its description; empty for the usual place."""
    level = plan.level(name)
    if level is None:
        return ", not open"
    place, usual = level.placement, Placement()
    parts = [
        place.provider if place.provider != usual.provider else "",
        f"threads {place.threads}" if place.threads else "",
        f"cores {','.join(map(str, place.cores))}" if place.cores else "",
    ]
    return "".join(f", {part}" for part in parts if part)


def stand_ins(levels: list[Level]) -> list[str]:
    """What must be said of every number that depends on ``levels``: the weights that are for timing only."""
    return list(dict.fromkeys(_STAND_INS[level.source.kind] for level in levels if level.source.kind in _STAND_INS))
