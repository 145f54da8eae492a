"""What files made on first use share: disk space, abandoned parts, the rename into place, and error messages."""

from __future__ import annotations

import errno
import filecmp
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from export.manifest import PocketspecError
from export.own_files import can_write, remove_tree

_ABANDONED_SECONDS = 3600  # a part that was not written for so long belongs to a process that was killed


class PackingError(PocketspecError, OSError):
    """A packed file that cannot be made: no space, no permission, or a source that does not match its description."""


class NowhereError(PackingError):
    """No folder for packed weights can be written to: the reason is the same for every level."""


def require_place(roots: Iterable[Path]) -> None:
    """NowhereError if none of the folders ``roots`` can be written to."""
    roots = list(roots)
    if not any(map(can_write, roots)):
        raise NowhereError(
            f"packed weights cannot be kept, for neither {' nor '.join(map(str, roots))} can be written; set"
            " POCKETSPEC_CACHE to a folder that can"
        )


def make_in_first(places: Iterable[Path], make: Callable[[Path], object]) -> Path:
    """The first of ``places`` in which ``make`` succeeds; PackingError joins the different reasons of all failures."""
    errors: list[str] = []
    for place in places:
        try:
            make(place)
            return place
        except PackingError as error:
            errors.append(str(error))
    raise PackingError("; and ".join(dict.fromkeys(errors)))


def clear_abandoned(folder: Path, pattern: str) -> None:
    """Removes parts that killed processes left behind: files and marked folders of ``folder``.

    ``pattern`` is a pattern of names, in which a star stands for the unique part of a name.
    """
    own = re.compile(re.escape(pattern).replace(r"\*", r"\d+-[0-9a-f]+"))
    for part in folder.glob(pattern):
        try:
            status = part.lstat()
        except FileNotFoundError:  # its maker is alive and has just finished
            continue
        if not own.fullmatch(part.name) or time.time() - status.st_mtime <= _ABANDONED_SECONDS:
            continue
        if stat.S_ISREG(status.st_mode):
            part.unlink(missing_ok=True)
        else:
            remove_tree(folder, part)


def check_space(folder: Path, needed: int) -> None:
    """OSError if the disk of ``folder`` has fewer than ``needed`` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{free:,} bytes are free")


def is_same(part: Path, path: Path) -> bool:
    """Whether ``path`` is a file with exactly the bytes of ``part``, so that no rename is needed."""
    return path.is_file() and not path.is_symlink() and filecmp.cmp(part, path, shallow=False)


def put_in_place(part: Path, path: Path) -> None:
    """Renames. Where the system cannot replace a file in use, the same file made by another process will do."""
    try:
        os.replace(part, path)
    except PermissionError:
        if not is_same(part, path):
            raise


def explain(error: OSError, path: Path, needed: int, otherwise: str) -> PackingError:
    """The error for users after writing ``needed`` bytes to ``path`` failed; ``otherwise`` names another way out."""
    if error.errno == errno.ENOSPC:
        return PackingError(
            f"{path} needs {needed:,} bytes and its disk is full ({error.strerror}); free space, or set"
            f" POCKETSPEC_CACHE to a folder on another disk{otherwise and ', or '}{otherwise}",
        )
    return PackingError(f"{path} cannot be written ({error.strerror}){otherwise and '; '}{otherwise}")
