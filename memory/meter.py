"""Measures what a process really uses: resident bytes, their peaks by phase, and bytes by file.

Anonymous bytes can be given back by the process alone; pages of mapped files can be dropped by the system and read
again. Only Linux tells the two apart. Elsewhere every function here returns None, and a meter records no phase.
"""

from __future__ import annotations

import mmap
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_PROC = Path("/proc")
_PAGE_ENTRY = 8  # bytes of /proc/PID/pagemap for every page


@dataclass(frozen=True)
class Memory:
    """Resident bytes of a process: anonymous ones, and those of mapped files (shared memory counts as a file)."""

    anonymous_bytes: int
    file_bytes: int


def read_memory(pid: int | None = None, proc: Path | None = None) -> Memory | None:
    """The memory of process ``pid`` now (None: this one), from the folder ``proc`` (None: /proc).

    None where the system does not tell the two kinds apart, or the process is gone. The system counts in batches for
    each processor, so a figure can be off by some 100 KiB.
    """
    try:
        _, resident, shared, *_ = (_folder(pid, proc) / "statm").read_text().split()
    except (OSError, ValueError):
        return None
    return Memory((int(resident) - int(shared)) * mmap.PAGESIZE, int(shared) * mmap.PAGESIZE)


def read_mapped_files(pid: int | None = None) -> Mapping[str, int] | None:
    """Resident bytes of every file that process ``pid`` maps, by path, without pages that became anonymous by writing.

    The system counts page by page, which takes milliseconds for every GB. None as for ``read_memory``.
    """
    try:
        lines = (_folder(pid) / "smaps").read_text().splitlines()
    except OSError:
        return None
    files: defaultdict[str, int] = defaultdict(int)
    path = ""
    for line in lines:
        name, _, value = line.partition(":")
        if name == "Rss":
            files[path] += int(value.split()[0]) * 1024
        elif name == "Anonymous":
            files[path] -= int(value.split()[0]) * 1024
        elif "-" in line.split(" ", 1)[0]:
            fields = line.split(maxsplit=5)
            path = fields[5] if len(fields) == 6 else ""
    return {path: count for path, count in files.items() if path.startswith("/")}


def resident_bytes(spans: Iterable[tuple[int, int]]) -> int | None:
    """Resident bytes of this process's pages in ``spans`` (address, size); None where the system does not tell."""
    pages: set[int] = set()
    try:
        with (_folder(None) / "pagemap").open("rb", buffering=0) as table:
            for address, size in spans:
                first, last = address // mmap.PAGESIZE, -(-(address + size) // mmap.PAGESIZE)
                table.seek(first * _PAGE_ENTRY)
                entries = table.read((last - first) * _PAGE_ENTRY)
                # The top bit of an entry, little-endian, says that the page is resident.
                pages.update(first + i for i, top in enumerate(entries[_PAGE_ENTRY - 1 :: _PAGE_ENTRY]) if top & 0x80)
    except OSError:
        return None
    return len(pages) * mmap.PAGESIZE


@dataclass(frozen=True)
class Phase:
    """What a process used during a phase. ``peak`` has the highest of each kind, which need not be simultaneous."""

    name: str
    before: Memory
    peak: Memory
    after: Memory


class PeakMeter:
    """Samples process ``pid`` (None: this one) from a thread; ``phases`` has the phases that ended.

    The thread cannot sample while Python's lock is held. So the system's own high-water mark of resident bytes, which a
    phase resets, counts as well: less the largest file part seen, it is a bound for the anonymous bytes.

    >>> with PeakMeter() as meter:
    ...     with meter.phase("open"):
    ...         ballast = bytearray(100_000_000)
    """

    def __init__(self, pid: int | None = None, interval_seconds: float = 0.001) -> None:
        self._pid, self._interval = pid, interval_seconds
        self._peak = Memory(0, 0)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-meter", daemon=True)
        self.phases: list[Phase] = []

    def __enter__(self) -> PeakMeter:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Records what is used until the block ends, even with an error. Phases do not nest."""
        self._peak = Memory(0, 0)
        before = self._sample()
        _reset_high_water(self._pid)
        try:
            yield
        finally:
            after = self._sample()
            if before is not None and after is not None:
                anonymous = max(self._peak.anonymous_bytes, _high_water(self._pid) - self._peak.file_bytes)
                self.phases.append(Phase(name, before, Memory(anonymous, self._peak.file_bytes), after))

    def _watch(self) -> None:
        while not self._ended.wait(self._interval):
            self._sample()

    def _sample(self) -> Memory | None:
        now = read_memory(self._pid)
        if now is not None:
            with self._lock:
                peak = self._peak
                self._peak = Memory(
                    max(peak.anonymous_bytes, now.anonymous_bytes), max(peak.file_bytes, now.file_bytes)
                )
        return now


def _reset_high_water(pid: int | None) -> None:
    """Resets the high-water mark of resident bytes, where the system allows it."""
    with suppress(OSError):
        (_folder(pid) / "clear_refs").write_text("5")


def _high_water(pid: int | None) -> int:
    """The most resident bytes since the last reset; 0 where the system does not tell."""
    try:
        lines = (_folder(pid) / "status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def _folder(pid: int | None, proc: Path | None = None) -> Path:
    return (proc or _PROC) / ("self" if pid is None else str(pid))
