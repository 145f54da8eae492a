"""Controls how many threads of a session's pool the native operators use; the number may change between steps.

Results do not depend on it. The number is in the library's memory, as is the time that threads have waited for others.
"""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path

import onnxruntime as ort

# The session option that names its crew.
CREW_ENTRY = "pocketspec.crew"
_numbers = itertools.count(1)


def new_crew_number() -> str:
    """A name that no other session of this process has."""
    return str(next(_numbers))


class _Shared(ctypes.Structure):
    # The same fields as in crew.h.
    _fields_ = (("workers", ctypes.c_int64), ("held_up", ctypes.c_int64))


class NativeCrew:
    """The threads of one session. The library keeps it until the process ends, even if the session is closed."""

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared

    @property
    def workers(self) -> int:
        """Threads that work on one operator, at least one."""
        return int(self._shared.workers)

    @workers.setter
    def workers(self, count: int) -> None:
        self._shared.workers = count

    @property
    def held_up_seconds(self) -> float:
        """Seconds that operators waited for threads that had begun, since the session was made."""
        return float(self._shared.held_up) / 1e9


def crew_of(session: ort.InferenceSession, library: Path) -> NativeCrew | None:
    """The crew of a session whose operators are those of ``library``; None if the library has none for it."""
    options = session.get_session_options()
    try:
        number = int(options.get_session_config_entry(CREW_ENTRY))
        find = ctypes.CDLL(str(library)).pocketspec_crew
    except (RuntimeError, ValueError, OSError, AttributeError):
        return None
    find.argtypes, find.restype = [ctypes.c_int64], ctypes.POINTER(_Shared)
    found = find(number)
    return NativeCrew(found.contents) if found else None
