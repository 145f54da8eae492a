"""Files and folders that this program makes: written whole or not at all, and never through a link.

Strangers may have put things into bundles and caches, such as a link in place of a folder or of the next file. Below a
``root`` that the user named, no link is followed here, and nothing is deleted that this program did not make.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

# A file of this name lies in every folder that this program may delete.
MARKER = ".pocketspec"


def holds_link(root: Path, path: Path) -> bool:
    """Whether ``path``, or a folder between ``root`` and it, is a symbolic link or a junction."""
    parts = path.relative_to(root).parts
    return any(_is_link(root.joinpath(*parts[: count + 1])) for count in range(len(parts)))


def refuse_link(root: Path, path: Path) -> None:
    """OSError where ``path``, or a folder between ``root`` and it, is a link."""
    if holds_link(root, path):
        raise OSError(errno.ELOOP, "it is reached by a link, which is not followed", str(path))


def make_folder(root: Path, folder: Path) -> None:
    """Makes ``folder`` and those between ``root`` and it. OSError where one of them is a link, or a file."""
    refuse_link(root, folder)
    folder.mkdir(parents=True, exist_ok=True)


def can_write(folder: Path) -> bool:
    """Whether rights and file system allow files in ``folder``, which need not exist yet."""
    there = next((place for place in (folder, *folder.absolute().parents) if os.path.lexists(place)), folder)
    return os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK)


def part_of(path: Path) -> Path:
    """An unused name beside ``path``, for a file that will be renamed to it."""
    return path.with_name(f"{path.name}.{os.getpid()}-{os.urandom(4).hex()}.part")


@contextmanager
def open_new(path: Path) -> Iterator[BinaryIO]:
    """A new file to write to; FileExistsError if anything has that name, even a link that leads nowhere."""
    with path.open("xb", buffering=0) as file:
        yield file


def write_whole(path: Path, data: bytes) -> None:
    """Writes all of ``data`` to ``path``, or changes nothing. A link of that name is replaced, not followed."""
    part = part_of(path)
    try:
        with part.open("xb") as file:
            file.write(data)
        os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink()


def mark(folder: Path) -> None:
    """Marks a new ``folder`` as made by this program."""
    with suppress(FileExistsError), open_new(folder / MARKER):
        pass


def is_marked(folder: Path, markers: Iterable[str] = (MARKER,)) -> bool:
    """Whether ``folder`` is a folder with one of the ``markers``, and neither is a link."""
    return any(not holds_link(folder.parent, folder / name) and (folder / name).is_file() for name in markers)


def remove_tree(root: Path, folder: Path, markers: Iterable[str] = (MARKER,)) -> None:
    """Deletes ``folder`` with its content, if it is marked and no link stands between ``root`` and it.

    Links in it are deleted without what they lead to. What cannot be deleted stays.
    """
    if not holds_link(root, folder) and is_marked(folder, markers):
        shutil.rmtree(folder, ignore_errors=True)


def identity(path: Path) -> list[int] | None:
    """What changes whenever a file does: size, time of change and inode; None if there is no file."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ino] if stat.S_ISREG(status.st_mode) else None


def _is_link(path: Path) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    # Junctions of Windows are no symbolic links there, and lead elsewhere as well.
    return stat.S_ISLNK(status.st_mode) or getattr(status, "st_reparse_tag", 0) == 0xA0000003
