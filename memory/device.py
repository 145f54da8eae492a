"""What the device has: memory in all and to be had now, the limits a container sets, cores it can use.

Linux tells everything; elsewhere the memory in all stands in for what is available, and a plan says less.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from memory.control_groups import group_folders
from memory.cores import read_cores
from memory.meter import Memory, read_memory
from memory.process import REFERENCE, KernelKind, ProcessBytes

Residence = Literal["native", "prepacked", "copied"]

# Kept free of the device's memory when the user names no budget: for the system, for what other programs grow by.
_MARGIN_SHARE = 0.1
_MARGIN_BYTES = 200 << 20
# The same of a container, whose limit is its own: for what the system counts as its, sockets and page tables.
_CONTAINER_SHARE = 0.05
# cgroup v1 says "no limit" with a number near the largest; no machine has so much.
_NO_LIMIT = 1 << 60
# By version of control groups: the files of a limit and of what is used, and the rows of pages of files, which can be
# evicted: those that nobody needs just now, and those in use.
_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "total_active_file"),
    2: ("memory.max", "memory.current", "inactive_file", "active_file"),
}


@dataclass(frozen=True)
class Device:
    """A device as the planner sees it, in bytes.

    ``available_bytes`` can be had now without swapping, limits of containers counted; ``own_bytes`` of what cannot are
    of this process, and plans count them again. ``residences`` tells for levels by name how their weights sit in
    memory; a level that is not named sits as ``kernels`` let it: in its native form if it has one, or in ONNX Runtime's
    prepacked file. ``processes`` has what a process takes without a model, by kernels, as far as it was measured here.
    ``container_bytes`` is the limit of the container that bounds what may be used, None where the machine does.
    """

    total_bytes: int
    available_bytes: int
    cores: int = 1
    kernels: KernelKind = "native"
    residences: dict[str, Residence] = field(default_factory=dict, hash=False)
    processes: dict[KernelKind, ProcessBytes] = field(default_factory=dict, hash=False)
    own_bytes: int = 0
    container_bytes: int | None = None

    @property
    def attainable_bytes(self) -> int:
        """What a plan may count: what is available, and what this process has of it already."""
        return self.available_bytes + self.own_bytes

    @property
    def margin_bytes(self) -> int:
        """What is left to everyone else when the user names no budget."""
        if self.container_bytes is not None:
            return int(self.container_bytes * _CONTAINER_SHARE)
        return max(_MARGIN_BYTES, int(self.attainable_bytes * _MARGIN_SHARE))

    @property
    def usable_bytes(self) -> int:
        """What a plan may use when the user names no budget."""
        return max(self.attainable_bytes - self.margin_bytes, 0)

    def process(self, residence: Residence) -> ProcessBytes:
        """What a process takes whose target's weights sit as ``residence`` says."""
        kernels = kernels_of(residence)
        return self.processes.get(kernels, REFERENCE[kernels])


def kernels_of(residence: Residence) -> KernelKind:
    """The kernels that run a level whose weights sit as ``residence`` says."""
    return "native" if residence == "native" else "portable"


def read_device(root: Path = Path("/")) -> Device:
    """This device now. ``root`` is where ``proc`` and ``sys`` lie."""
    own = _planned_part(read_memory(proc=root / "proc") or Memory(0, 0))
    cores = read_cores(root).usable
    total, available = _system_memory(root)
    # Of the whole machine, pages of files count as available.
    bounds = [Device(total, available, cores, own_bytes=own.anonymous_bytes)]
    for limit, used, in_use in _container_limits(root):
        if limit < total:
            held = own.anonymous_bytes + min(own.file_bytes, in_use)
            free = max(limit - used, 0)
            bounds.append(Device(limit, free, cores, own_bytes=min(held, limit - free), container_bytes=limit))
    tightest = min(bounds, key=lambda device: device.attainable_bytes - device.margin_bytes)
    return replace(
        tightest,
        total_bytes=min(device.total_bytes for device in bounds),
        available_bytes=min(device.available_bytes for device in bounds),
    )


def _planned_part(own: Memory) -> Memory:
    """Of this process, what every plan counts; what an application holds beside is in no plan."""
    process = REFERENCE["native"]
    return Memory(min(own.anonymous_bytes, process.modules), min(own.file_bytes, process.files))


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


def _container_limits(root: Path) -> Iterator[tuple[int, int, int]]:
    """Of every group this process is in, the outer ones included: the limit, the bytes used without pages of files that
    nobody needs just now, and those of files in use among them.
    """
    for version, folder in group_folders(root, "memory"):
        found = _read_group(folder, *_FILES[version])
        if found is not None:
            yield found


def _read_group(folder: Path, limit: str, used: str, idle: str, in_use: str) -> tuple[int, int, int] | None:
    try:
        most = (folder / limit).read_text().strip()
        if most == "max" or int(most) >= _NO_LIMIT:
            return None
        rows = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        held = int((folder / used).read_text()) - int(rows.get(idle, 0))
        return int(most), max(held, 0), int(rows.get(in_use, 0))
    except (OSError, ValueError):
        return None
