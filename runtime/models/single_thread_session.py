"""All threads of a session or a single one, where operators cannot use fewer: another session of the same graph.

ONNX Runtime's own operators always use a session's whole pool. Beside other programs one thread is faster than threads
that wait for those whose cores were taken, so a session of one thread is opened when that is first wanted. Weights are
mapped, so both share them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import onnxruntime as ort

from export.manifest import PocketspecError


class SessionCrew:
    """``session``, whose threads are all of them, and the session of one thread that ``open_single`` opens.

    ``wanted`` is the one that forwards should run on.
    """

    def __init__(self, session: ort.InferenceSession, open_single: Callable[[], ort.InferenceSession]) -> None:
        self._all, self._open_single = session, open_single
        self._threads = int(session.get_session_options().intra_op_num_threads)
        self._single: ort.InferenceSession | None = None
        self._refused = False
        self.wanted = session

    @property
    def workers(self) -> int:
        """Threads of the session that is wanted."""
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
        """From now on all threads work: the session of a single one cannot be opened, or gives other bits."""
        self.wanted, self._single, self._refused = self._all, None, True

    @property
    def held_up_seconds(self) -> float:
        """See ``waiting_seconds``."""
        return waiting_seconds()


def waiting_seconds(root: Path = Path("/")) -> float:
    """How long the threads of this process have waited for a processor, together; 0 where the system does not tell."""
    waited = 0
    for file in (root / "proc/self/task").glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):  # threads end
            waited += int(file.read_text(encoding="ascii").split()[1])
    return waited / 1e9
