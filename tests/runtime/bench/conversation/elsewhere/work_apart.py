"""Work for processes of their own, which import nothing of the folder they start in: this one is a place of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from export.manifest import PocketspecError


def linger(notify: Callable[[str], None]) -> None:
    """Goes on for a minute."""
    notify(str(os.getpid()))
    time.sleep(60)


def add(left: int, right: int, notify: Callable[[str], None]) -> tuple[int, bool]:
    """The sum, and whether this process has a parent."""
    notify(f"not {os.getppid()}")
    return left + right, os.getpid() != os.getppid()


def refuse(notify: Callable[[str], None]) -> None:
    """Fails with one of the project's errors."""
    raise PocketspecError("no such number")


def vanish(notify: Callable[[str], None]) -> None:
    """Ends the process."""
    os._exit(7)
