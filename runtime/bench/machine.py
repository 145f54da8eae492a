"""What measurements depend on: the processor, the versions, and the levels."""

from __future__ import annotations

import os
import platform
from importlib import metadata

from export.manifest import Level
from memory.plan import Placement, Plan
from runtime.hardware import processor_name

_STAND_INS = {"random-weights": "random weights", "timing-vehicle": "timing vehicle"}


def device() -> str:
    """The processor, and how many of its cores this process may use."""
    return f"{processor_name()}, {os.cpu_count()} processors, {platform.system()} {platform.machine()}"


def read_load() -> float | None:
    """The average number of runnable processes in the last minute; None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def versions() -> dict[str, str]:
    """The versions that measurements depend on."""
    found = {"Python": platform.python_version()}
    for name in ("pocketspec", "onnxruntime", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # run from a checkout, or with another build of ONNX Runtime
            found[name] = "(not installed as a package)"
    return found


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
