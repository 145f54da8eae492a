"""A lock on a file that belongs to one process, released by the system when that ends, however it ends."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

# Errors of file systems without locks.
_UNKNOWN = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS)


class FileLock:
    """Takes the lock at ``path``, a file of its own that is empty and stays; BlockingIOError if another has it.

    OSError if the file cannot be made. Where the file system has no locks, everyone gets it.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o600)
        try:
            _lock(self._file)
        except OSError as error:
            if error.errno not in _UNKNOWN:
                os.close(self._file)
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
                    raise BlockingIOError(error.errno, "another process has it", str(path)) from None
                raise

    def release(self) -> None:
        """Gives the lock back."""
        os.close(self._file)


def _lock(file: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
