"""One export at a time to one place: a lock on a file beside it, which the system releases when its process dies."""

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
# File systems that know no locks; there, two exports are told apart by their workspaces alone, as far as that goes.
_UNKNOWN = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS)


class LockError(PocketspecError, OSError):
    """A place where nothing can be written."""


@contextmanager
def locked(output: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """Waits until no other export writes to ``output``; ``waiting`` is told once if there is one.

    Nothing stays of the lock: neither its file nor folders made for it that are empty at the end.
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
    told = False
    while True:
        file = path.open("a+b")
        try:
            if _try_lock(file):
                if _is_at(path, file):
                    return file
            else:
                if not told:
                    waiting(f"another export to {output} is running; waiting until it ends")
                    told = True
                time.sleep(_PAUSE_SECONDS)
        except BaseException:
            file.close()
            raise
        file.close()


def _is_at(path: Path, file: BinaryIO) -> bool:
    """Whether ``file`` still has its name: who held the lock before may have removed it."""
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
    """Whether the lock is ours now; also where the file system knows none."""
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
