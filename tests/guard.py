"""Ends what takes hours or all memory, so that a test of limits fails where they are missing, and the machine lives."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_PATIENCE_SECONDS = 120  # a hundred times what the slowest takes, on a machine that does other things, too
_ROOM_BYTES = 400_000_000


@contextmanager
def guarded() -> Iterator[None]:
    """Raises TimeoutError or MemoryError in the block where it takes too much; on systems that can tell."""
    if sys.platform == "win32":
        yield
        return
    import resource

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done within {_PATIENCE_SECONDS} s")

    before = resource.getrlimit(resource.RLIMIT_DATA)
    handler = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(_PATIENCE_SECONDS)
    try:
        if sys.platform == "linux":
            resource.setrlimit(resource.RLIMIT_DATA, (_data_bytes() + _ROOM_BYTES, before[1]))
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _data_bytes() -> int:
    """What counts for the limit now: private mappings that may be written to."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData"))
