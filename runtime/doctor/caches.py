"""Examines the folders for stored results and packed weights: their size, and whether they can be written."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from memory.size import show_bytes
from runtime.bundle.device_cache import NO_FOLDER, device_folder, user_folder
from runtime.doctor.finding import Finding, Section

_VARIABLE = "POCKETSPEC_CACHE"


def caches_section(bundle: Path | None) -> Section:
    """The user's cache, and the bundle's own folder if there is a bundle."""
    folders = {"user's cache": user_folder()}
    if bundle is not None and device_folder(bundle).is_relative_to(bundle):
        folders["in the bundle"] = device_folder(bundle)
    return Section("caches", tuple(finding for name, folder in folders.items() for finding in _cache(name, folder)))


def _cache(name: str, folder: Path) -> Iterator[Finding]:
    files = list(_sizes(folder))
    held = f"{show_bytes(sum(files))} in {len(files)} file{'s' * (len(files) != 1)}"
    # os.path does not raise for a folder that may not be read, unlike pathlib.
    held = held if os.path.isdir(folder) else "none yet"
    place = next(each for each in (folder, *folder.absolute().parents) if os.path.exists(each))
    if not _can_write(place):
        what = "this user has no home folder" if folder == NO_FOLDER else f"{folder} cannot be written"
        advice = f"{what}, so that kernels are tested at every start: set {_VARIABLE} to a folder that can be written"
        yield Finding(name, what if folder == NO_FOLDER else f"{what}; {held}", advice)
        return
    free = None
    with suppress(OSError):
        free = shutil.disk_usage(place).free
    room = "" if free is None else f", {show_bytes(free)} free"
    yield Finding(name, f"{folder}: {held}{room}")


def _can_write(folder: Path) -> bool:
    """Tested by writing, since permissions do not show that a file system is read-only."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _sizes(folder: Path) -> Iterator[int]:
    """Bytes of every file in ``folder``; links are not followed."""
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                yield os.lstat(os.path.join(path, name)).st_size
