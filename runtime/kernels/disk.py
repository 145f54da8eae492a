"""What files that are made on first use have in common: room for them, leftovers, the last rename, and what to say."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from export.manifest import PocketspecError

_ABANDONED_SECONDS = 3600  # a part that nobody wrote to for so long belongs to a process that was killed
_HEAD_BYTES = 4096


class PackingError(PocketspecError, OSError):
    """A packed file that cannot be made: no space, no permission, or a source that is not what its description says."""


def make_in_first(places: Iterable[Path], make: Callable[[Path], object]) -> Path:
    """The first of ``places`` in which ``make`` succeeds; PackingError says why it did not, of every place once."""
    errors: list[str] = []
    for place in places:
        try:
            make(place)
            return place
        except PackingError as error:
            errors.append(str(error))
    raise PackingError("; and ".join(dict.fromkeys(errors)))


def clear_abandoned(folder: Path, pattern: str) -> None:
    """Removes what processes that were killed left behind: files or folders of ``folder`` that match ``pattern``."""
    for part in folder.glob(pattern):
        try:
            is_old = time.time() - part.stat().st_mtime > _ABANDONED_SECONDS
        except FileNotFoundError:  # its maker is not dead and has just finished
            continue
        if is_old and part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        elif is_old:
            part.unlink(missing_ok=True)


def check_space(folder: Path, needed: int) -> None:
    """OSError if the disk of ``folder`` has not ``needed`` bytes left."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{free:,} bytes are free")


def is_same(part: Path, path: Path) -> bool:
    """Whether ``path`` is as good as ``part``: of the same size and beginning with the same page.

    Packed files begin with what they are made of.
    """
    if not path.is_file() or part.stat().st_size != path.stat().st_size:
        return False
    with part.open("rb") as ours, path.open("rb") as theirs:
        return ours.read(_HEAD_BYTES) == theirs.read(_HEAD_BYTES)


def put_in_place(part: Path, path: Path) -> None:
    """Renames; where the system does not replace a file in use, one that another process just made is as good."""
    try:
        os.replace(part, path)
    except PermissionError:
        if not is_same(part, path):
            raise


def explain(error: OSError, path: Path, needed: int, otherwise: str) -> PackingError:
    """What to tell of ``error``, which came of writing ``needed`` bytes to ``path``; ``otherwise`` names a way out."""
    if error.errno == errno.ENOSPC:
        return PackingError(
            f"{path} needs {needed:,} bytes and its disk is full ({error.strerror}); free space, or set"
            f" POCKETSPEC_CACHE to a folder on another disk{otherwise and ', or '}{otherwise}",
        )
    return PackingError(f"{path} cannot be written ({error.strerror}){otherwise and '; '}{otherwise}")
