"""How many threads of this process can work at once, and why: cores, affinity, and quotas of processor time.

A quota is no mask: beside ``docker --cpus 1`` a process still sees every core, and threads beyond the quota only use up
its time, whereupon all of them stand still for the rest of a period.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Set
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path

from memory.control_groups import group_folders


@dataclass(frozen=True)
class Cores:
    """Cores that this process can use. The threads of one core count once, since they share what computes.

    ``machine``: all that are online. ``allowed``: of them, those the affinity mask or a set of processors leaves.
    ``quota``: processors' worth of time, the least of what control groups allow; None: no limit. ``quota_file``: where
    that is written.
    """

    machine: int
    allowed: int
    quota: float | None = None
    quota_file: Path | None = None

    @property
    def usable(self) -> int:
        """Threads that can work at once, at least one; a processor of which the quota allows a part counts.

        Of one and a half processors two threads got 1.18 times what one got with Qwen2-1.5B's shape in int4 (native
        kernels; 1.19 with portable ones), and 0.92 with the portable demo (Zen 4, two cores).
        """
        return self.allowed if self.quota is None else max(min(self.allowed, ceil(self.quota)), 1)

    def reasons(self) -> tuple[str, ...]:
        """What bounds the number, a line each, the machine first."""
        lines = [f"the machine has {_count(self.machine, 'core')}"]
        if self.allowed < self.machine:
            lines.append(f"this process may run on {self.allowed} of them (affinity)")
        if self.quota is not None:
            lines.append(f"{self.quota_file} allows the time of {_count(self.quota, 'processor')}")
        return tuple(lines)


def read_cores(root: Path = Path("/"), allowed: Set[int] | None = None) -> Cores:
    """The cores now. ``root`` is where ``proc`` and ``sys`` lie; ``allowed``: numbers of processors, None: affinity."""
    if allowed is None:
        allowed = _affinity()
    if allowed is None:
        count = os.cpu_count() or 1
        return Cores(count, count)
    usable = len({_core(root, number) for number in allowed})
    machine = len({_core(root, number) for number in _online(root) or allowed})
    quota, file = min(_quotas(root), default=(None, None))
    return Cores(max(machine, usable), usable, quota, file)


def knows_cores() -> bool:
    """Whether this system tells which processors a process may use, and which of them are threads of one core."""
    return hasattr(os, "sched_getaffinity")


def _affinity() -> Set[int] | None:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


@cache
def _core(root: Path, processor: int) -> str:
    """Which core a processor is a thread of; one of its own where the system does not tell. Never changes."""
    topology = root / f"sys/devices/system/cpu/cpu{processor}/topology"
    try:
        return (topology / "thread_siblings_list").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return str(processor)


def _online(root: Path) -> set[int]:
    """The numbers of all processors that run, written like "0-3,8"; none where the system does not tell."""
    try:
        text = (root / "sys/devices/system/cpu/online").read_text(encoding="ascii")
        ranges = (part.partition("-") for part in text.strip().split(",") if part)
        return {number for first, _, last in ranges for number in range(int(first), int(last or first) + 1)}
    except (OSError, ValueError):
        return set()


def _quotas(root: Path) -> Iterator[tuple[float, Path]]:
    """Processors' worth of time that groups allow, and the files that say so."""
    for version, folder in group_folders(root, "cpu"):
        file = folder / ("cpu.max" if version == 2 else "cpu.cfs_quota_us")
        try:
            words = file.read_text(encoding="ascii").split()
            if version == 1:
                words.append((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
            quota, period = (int(word) for word in words)
        except (OSError, ValueError):
            continue  # no such group, or no limit: "max" is not a number
        if quota > 0 and period > 0:
            yield quota / period, file


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"
