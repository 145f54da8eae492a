"""Switches between all threads and one thread, for operators that cannot use fewer: by a second session of the graph.

ONNX Runtime's own operators always use all threads of a session. Beside other programs one thread can be faster than
threads that wait for others that lost their cores. So a session with one thread is opened when it is first wanted. The
weights are mapped, and both sessions share them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import onnxruntime as ort

from export.manifest import PocketspecError


class SessionCrew:
    """``session``, which uses all threads, and a session with one thread, which ``open_single`` opens.

    ``wanted`` is the one that forwards should use.
    """

    def __init__(self, session: ort.InferenceSession, open_single: Callable[[], ort.InferenceSession]) -> None:
        self._all, self._open_single = session, open_single
        self._threads = int(session.get_session_options().intra_op_num_threads)
        self._single: ort.InferenceSession | None = None
        self._refused = False
        self.wanted = session

    @property
    def workers(self) -> int:
        """Threads of the wanted session."""
        return self._threads if self.wanted is self._all else 1

    @workers.setter
    def workers(self, count: int) -> None:
        if count >= self._threads or self._refused:
            self.wanted = self._all
            return
        if self._single is None:
            try:
                self._single = self._open_single()
            except PocketspecError:
                self.refuse()
                return
        self.wanted = self._single

    def refuse(self) -> None:
        """Uses all threads from now on: the session with one thread cannot be opened, or gives other bits."""
        self.wanted, self._single, self._refused = self._all, None, True

    @property
    def held_up_seconds(self) -> float:
        """See ``waiting_seconds``."""
        return waiting_seconds()


def waiting_seconds(root: Path = Path("/")) -> float:
    """Seconds that this process's threads have waited for a processor, added up; 0 if the system does not tell."""
    waited = 0
    for file in (root / "proc/self/task").glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):  # a thread may end meanwhile
            waited += int(file.read_text(encoding="ascii").split()[1])
    return waited / 1e9
