"""Checks that a packed file still holds what was packed.

Memory cards lose pages and copies are cut short. The whole file is hashed when it looks like another file than the one
checked before, and on request. A file of the same size, modification time and inode counts as the same, as for the
other files of a bundle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from export.own_files import identity
from runtime.bundle.device_cache import forget, look_up, remember

# Whether the bytes of a file from a position on have a SHA-256.
Check = Callable[[Path, str, int], bool]

DAMAGED = "is damaged, for its content is not what was packed"
# What this process has checked, for folders where no result can be stored.
_SEEN: set[tuple[str, str, tuple[int, ...]]] = set()


def content_hash(path: Path, start: int = 0) -> str:
    """SHA-256 of the bytes of ``path`` from ``start`` on."""
    with path.open("rb") as file:
        file.seek(start)
        return hashlib.file_digest(file, "sha256").hexdigest()


def checker(records: Path, fresh: bool = False) -> Check:
    """A check that stores its results in the folder ``records``; ``fresh``: it hashes even what is stored as whole."""
    return partial(_is_whole, records, fresh)


def record_whole(records: Path, path: Path, digest: str) -> None:
    """Stores that ``path`` is whole; called by the process that has just packed it."""
    remember(records, _name(path), [digest, identity(path)], True)


def _is_whole(records: Path, fresh: bool, path: Path, digest: str, start: int) -> bool:
    seen = identity(path)
    if seen is None:
        return False
    key = (str(path), digest, tuple(seen))
    if not fresh and (key in _SEEN or look_up(records, _name(path), [digest, seen])[0] is True):
        return True
    try:
        is_whole = content_hash(path, start) == digest
    except OSError:
        return False
    if is_whole:
        _SEEN.add(key)
        remember(records, _name(path), [digest, seen], True)
    else:
        _SEEN.discard(key)
        forget(records, _name(path))
    return is_whole


def _name(path: Path) -> str:
    return f"content-{hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:16]}"
