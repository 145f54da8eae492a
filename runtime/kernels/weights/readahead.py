"""Reads mapped weights ahead, in the order in which a step uses them.

A step of a cold model waits for the disk at every missing page. One reader that goes through the file from the start,
which is the order of use, keeps the disk busy with long reads, and the step follows it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from pathlib import Path

import numpy as np

_PIECE = 8 << 20  # bytes read at a time: enough for a fast disk, and soon done when stopped


def resident_share(path: Path) -> float:
    """The share of the file's pages that are in memory now, from 0 to 1; 1.0 where the system does not tell."""
    mincore = getattr(ctypes.CDLL(None), "mincore", None) if os.name == "posix" else None
    size = path.stat().st_size
    if mincore is None or size == 0:
        return 1.0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        pages = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
        view = np.frombuffer(mapped, np.uint8)
        address = view.ctypes.data
        del view  # a mapping with views cannot be closed
        failed = mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_void_p(pages.ctypes.data))
    return 1.0 if failed else float(np.mean(pages & 1))


def evict(path: Path) -> None:
    """Asks the system to drop the file's pages from memory, except mapped ones; for measuring."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_through(path: Path, stopped: threading.Event | None = None) -> None:
    """Reads the file from start to end, so that its pages are in memory; stops when ``stopped`` is set."""
    buffer = bytearray(_PIECE)
    with path.open("rb", buffering=0) as file:
        while not (stopped is not None and stopped.is_set()) and file.readinto(buffer):
            pass


class Warmer:
    """Reads files one after another in a thread of its own, unless they are in memory already.

    ``close`` stops it. The process does not wait for the thread.
    """

    # Above this share of resident pages nothing is read ahead.
    ENOUGH = 0.98

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pocketspec-warmer", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for path in self._paths:
            try:
                if resident_share(path) < self.ENOUGH:
                    read_through(path, self._stopped)
            except OSError:
                # Not an error here: whoever needs the file will report it.
                continue

    def wait(self) -> None:
        """Waits until everything is read."""
        self._thread.join()

    def close(self) -> None:
        """Stops reading."""
        self._stopped.set()
        self._thread.join()
