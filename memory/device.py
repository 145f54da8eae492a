"""What the device has: memory in all and to be had now, the limits a container sets, cores it can use.

Linux tells everything; elsewhere the memory in all stands in for what is available, and a plan says less.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from memory.cores import read_cores
from memory.groups import group_folders

Residence = Literal["native", "prepacked", "copied"]

# Kept free of the device's memory when the user names no budget: for the system, for what other programs grow by.
_MARGIN_SHARE = 0.1
_MARGIN_BYTES = 200 << 20
# cgroup v1 says "no limit" with a number near the largest; no machine has so much.
_NO_LIMIT = 1 << 60
# By version of control groups: the files of a limit and of what is used, and the row of what can be evicted.
_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


@dataclass(frozen=True)
class Device:
    """A device as the planner sees it, in bytes.

    ``available_bytes`` can be had now without swapping, limits of containers counted. ``residences`` tells for levels
    by name how their weights sit in memory; a level that is not named sits as ``kernels`` let it: in its native form if
    it has one, or in ONNX Runtime's prepacked file.
    """

    total_bytes: int
    available_bytes: int
    cores: int = 1
    kernels: Literal["native", "portable"] = "native"
    residences: dict[str, Residence] = field(default_factory=dict, hash=False)

    @property
    def usable_bytes(self) -> int:
        """What a plan may use when the user names no budget: what is available, less a margin for everyone else."""
        return max(self.available_bytes - max(_MARGIN_BYTES, int(self.available_bytes * _MARGIN_SHARE)), 0)


def read_device(root: Path = Path("/")) -> Device:
    """This device now. ``root`` is where ``proc`` and ``sys`` lie."""
    total, available = _system_memory(root)
    for limit, used in _container_limits(root):
        total, available = min(total, limit), min(available, max(limit - used, 0))
    return Device(total, available, read_cores(root).usable)


def _system_memory(root: Path) -> tuple[int, int]:
    """Bytes in all and available."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        total = _physical_memory()
        return total, total
    kib = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines) if value.split()}
    total = kib["MemTotal"] * 1024
    return total, kib.get("MemAvailable", kib["MemFree"]) * 1024


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return _NO_LIMIT


def _container_limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, bytes used that cannot be evicted) of every group this process is in, the outer ones included."""
    for version, folder in group_folders(root, "memory"):
        found = _read_group(folder, *_FILES[version])
        if found is not None:
            yield found


def _read_group(folder: Path, limit: str, used: str, reclaimable: str) -> tuple[int, int] | None:
    try:
        most = (folder / limit).read_text().strip()
        if most == "max" or int(most) >= _NO_LIMIT:
            return None
        rows = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        evictable = next((int(count) for name, count in rows if name == reclaimable), 0)
        return int(most), max(int((folder / used).read_text()) - evictable, 0)
    except (OSError, ValueError):
        return None
