"""Ctrl-C while an answer is given: it ends the answer, not the conversation."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def at_interrupt(act: Callable[[], None]) -> Iterator[None]:
    """A context in which Ctrl-C calls ``act`` instead of raising KeyboardInterrupt in the middle of a step.

    Only the main thread can take signals; elsewhere, and where the process ignores interrupts, nothing changes.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: act())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
