"""What the device has: total and available memory, limits of its container, and usable cores.

Only Linux tells how much memory is available; elsewhere the total counts as available.
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

# Memory that is left free when the user names no budget: for the system, and for other programs to grow.
_MARGIN_SHARE = 0.1
_MARGIN_BYTES = 200 << 20
# The same in a container, which has its limit for itself: for sockets and page tables, which count as its memory.
_CONTAINER_SHARE = 0.05
# Control groups of version 1 write "no limit" as a number beyond the memory of any machine.
_NO_LIMIT = 1 << 60
# By version of control groups: the files with the limit and with the used bytes, and the rows of memory.stat with pages
# of files, which can be evicted: inactive ones and active ones.
_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "total_active_file"),
    2: ("memory.max", "memory.current", "inactive_file", "active_file"),
}


@dataclass(frozen=True)
class Device:
    """A device as the planner sees it.

    ``available_bytes``: what can be had now without swapping and within the limits of containers.
    ``own_bytes``: what this process holds already of the memory that is in use; plans count it again.
    ``residences``: by level, how its weights lie in memory. Other levels are in their native form if they have one and
    ``kernels`` are native, else in ONNX Runtime's prepacked file.
    ``processes``: what a process takes without a model, by kernels, as far as it was measured on this device.
    ``one_caller``: one thread calls the forwards of all levels, and those of small levels it runs alone, as in the app
    for phones; elsewhere a drafter may work beside its target.
    ``container_bytes``: the limit of the container if that is what bounds memory, None if the machine does.
    """

    total_bytes: int
    available_bytes: int
    cores: int = 1
    kernels: KernelKind = "native"
    residences: dict[str, Residence] = field(default_factory=dict, hash=False)
    processes: dict[KernelKind, ProcessBytes] = field(default_factory=dict, hash=False)
    own_bytes: int = 0
    one_caller: bool = False
    container_bytes: int | None = None

    @property
    def attainable_bytes(self) -> int:
        """What a plan can have: available memory, and what this process holds already."""
        return self.available_bytes + self.own_bytes

    @property
    def margin_bytes(self) -> int:
        """What is left free when the user names no budget."""
        if self.container_bytes is not None:
            return int(self.container_bytes * _CONTAINER_SHARE)
        return max(_MARGIN_BYTES, int(self.attainable_bytes * _MARGIN_SHARE))

    @property
    def usable_bytes(self) -> int:
        """What a plan may use when the user names no budget."""
        return max(self.attainable_bytes - self.margin_bytes, 0)

    def process(self, residence: Residence) -> ProcessBytes:
        """What a process takes without a model, if its target's weights lie in memory as ``residence`` says."""
        kernels = kernels_of(residence)
        return self.processes.get(kernels, REFERENCE[kernels])


def kernels_of(residence: Residence) -> KernelKind:
    """The kernels that run a level whose weights lie in memory as ``residence`` says."""
    return "native" if residence == "native" else "portable"


def read_device(root: Path = Path("/")) -> Device:
    """This device now. ``root`` is the folder of ``proc`` and ``sys``."""
    own = _planned_part(read_memory(proc=root / "proc") or Memory(0, 0))
    cores = read_cores(root).usable
    total, available = _system_memory(root)
    # The machine counts pages of files as available.
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
    """The part of this process's memory that plans count: libraries, not what an application holds beside them."""
    process = REFERENCE["native"]
    return Memory(min(own.anonymous_bytes, process.modules), min(own.file_bytes, process.files))


def _system_memory(root: Path) -> tuple[int, int]:
    """Total and available bytes of the machine."""
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
    """The limit, the used bytes and the active file bytes of every control group that this process is in.

    Used bytes are without inactive pages of files, and include the active ones.
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
