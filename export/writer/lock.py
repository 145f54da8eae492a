"""Lets one export at a time write to an output: a lock on a file beside it, released by the system with its process."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from export.manifest import PocketspecError

_PAUSE_SECONDS = 0.2
# Errors of file systems without locks. There, workspaces alone keep exports with different requests apart.
_UNKNOWN = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS)


class LockError(PocketspecError, OSError):
    """A folder that cannot be written to."""


@contextmanager
def locked(output: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """A context in which no other export writes to ``output``; ``waiting`` gets a line if there is one to wait for.

    Nothing stays of the lock: neither its file, nor folders that were made for it and are empty at the end.
    """
    folder = output.absolute().parent
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    path = folder / f".{output.name}.lock"
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = _acquire(path, output, waiting)
        except OSError as error:
            raise LockError(f"cannot write to {folder} ({error.strerror}); give another --output") from error
        try:
            yield
        finally:
            _release(path, file)
    finally:
        for place in made:
            with suppress(OSError):  # not empty
                place.rmdir()


def _acquire(path: Path, output: Path, waiting: Callable[[str], None]) -> BinaryIO:
    reported = False
    while True:
        file = path.open("a+b")
        try:
            if _try_lock(file):
                if _is_at(path, file):
                    return file
            else:
                if not reported:
                    waiting(f"another export to {output} is running; waiting until it ends")
                    reported = True
                time.sleep(_PAUSE_SECONDS)
        except BaseException:
            file.close()
            raise
        file.close()


def _is_at(path: Path, file: BinaryIO) -> bool:
    """Whether ``file`` still has its name: the last holder of the lock may have removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _release(path: Path, file: BinaryIO) -> None:
    with suppress(OSError):
        path.unlink()
    file.close()
    if sys.platform == "win32":  # where an open file cannot be removed
        with suppress(OSError):
            path.unlink()


def _try_lock(file: BinaryIO) -> bool:
    """Whether this process has the lock now; True where the file system has no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
            return False
        if error.errno in _UNKNOWN:
            return True
        raise
    return True
