"""How many threads of this process can work at once, and why: cores, affinity, and quotas of processor time.

A quota hides no cores. Under ``docker --cpus 1`` a process still sees all of them; but with more threads than the quota
allows, its time is used up early and all threads stand still for the rest of the period.
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
    """The cores that this process can use. A core counts once: its hardware threads share its arithmetic units.

    ``machine``: cores that are online. ``allowed``: those of them that the affinity mask leaves. ``quota``: the least
    processor time that control groups allow, in processors; None means no limit. ``quota_file``: where it is written.
    """

    machine: int
    allowed: int
    quota: float | None = None
    quota_file: Path | None = None

    @property
    def usable(self) -> int:
        """Threads that can work at once, at least one; the quota is rounded up.

        With a quota of 1.5 processors two threads were 1.18 times as fast as one at the Qwen2-1.5B shape in int4
        (native kernels; 1.19 times with portable ones), and 0.92 times with the portable demo (Zen 4, two cores).
        """
        return self.allowed if self.quota is None else max(min(self.allowed, ceil(self.quota)), 1)

    def reasons(self) -> tuple[str, ...]:
        """What bounds the number of threads, a line each, the machine first."""
        lines = [f"the machine has {_count(self.machine, 'core')}"]
        if self.allowed < self.machine:
            lines.append(f"this process may run on {self.allowed} of them (affinity)")
        if self.quota is not None:
            lines.append(f"{self.quota_file} allows the time of {_count(self.quota, 'processor')}")
        return tuple(lines)


def read_cores(root: Path = Path("/"), allowed: Set[int] | None = None) -> Cores:
    """The cores of this process now.

    ``root`` is the folder of ``proc`` and ``sys``; ``allowed`` are numbers of processors, None means those of the
    affinity mask.
    """
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
    """Whether this system says which processors a process may use, and which of them share a core."""
    return hasattr(os, "sched_getaffinity")


def _affinity() -> Set[int] | None:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


@cache
def _core(root: Path, processor: int) -> str:
    """The core of a processor, which never changes; a core of its own where the system does not say."""
    topology = root / f"sys/devices/system/cpu/cpu{processor}/topology"
    try:
        return (topology / "thread_siblings_list").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return str(processor)


def _online(root: Path) -> set[int]:
    """The numbers of all processors that are online, from a text such as "0-3,8"; none where there is no such text."""
    try:
        text = (root / "sys/devices/system/cpu/online").read_text(encoding="ascii")
        ranges = (part.partition("-") for part in text.strip().split(",") if part)
        return {number for first, _, last in ranges for number in range(int(first), int(last or first) + 1)}
    except (OSError, ValueError):
        return set()


def _quotas(root: Path) -> Iterator[tuple[float, Path]]:
    """Every quota that control groups set, in processors, and the file that it was read from."""
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
