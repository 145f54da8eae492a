"""The peak of memory of an export: anonymous bytes of its process and its children.

Pages of mapped files are left out, because the system can drop them. Systems other than Linux do not tell the two
apart; there the peak is that of all resident bytes of this process.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

_INTERVAL_SECONDS = 0.02


class PeakWatch:
    """A context that samples memory every 20 ms; ``bytes`` is the highest sum so far, None if it is not known."""

    def __init__(self) -> None:
        self._peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-watch", daemon=True)

    def __enter__(self) -> PeakWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def bytes(self) -> int | None:
        """See the class."""
        self._peak = max(self._peak, held_bytes())
        return self._peak or _resident_peak()

    def _watch(self) -> None:
        while not self._ended.wait(_INTERVAL_SECONDS):
            self._peak = max(self._peak, held_bytes())


def held_bytes() -> int:
    """Anonymous bytes of this process and its children now; 0 where the system does not tell."""
    from memory.meter import read_memory

    found = [read_memory(pid) for pid in (None, *_children())]
    return sum(memory.anonymous_bytes for memory in found if memory is not None)


def _children() -> list[int]:
    pids: list[int] = []
    with suppress(OSError, ValueError):  # a thread that has ended, a system without the list
        for task in Path("/proc/self/task").iterdir():
            with suppress(OSError):
                pids += map(int, (task / "children").read_text().split())
    return [pid for pid in pids if pid != os.getpid()]


def _resident_peak() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
