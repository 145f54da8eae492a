"""The packed file of a level: found where it is current, else made once, in the bundle or else in the user's cache.

A file is current if its first page and its size are those that packing would write now: they name the layout, the
weights' hash, the table's hash and the bytes. Graphs look for their data beside them, so where the data cannot lie in
the bundle, the graphs are copied to it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from export.manifest import Level, Manifest
from runtime.kernels.layout import PAGE
from runtime.kernels.packing import PackingError, make_header, pack
from runtime.kernels.table import read_table
from runtime.record import cache_folder

# Told how many more bytes are done.
Advance = Callable[[int], None]
# A progress display: a title and the bytes in all give a context with the function that advances it.
Progress = Callable[[str, int], AbstractContextManager[Advance]]


def no_progress(title: str, total: int) -> AbstractContextManager[Advance]:
    """A display that shows nothing."""
    return nullcontext(lambda count: None)


def packed_graphs(bundle: Path, manifest: Manifest, level: Level, progress: Progress = no_progress) -> Path:
    """The folder of native graphs with their packed weights beside them; PocketspecError if they cannot be made."""
    assert level.native is not None
    folder = bundle / level.folder
    table, table_hash = read_table(folder / level.native.table)
    source_hash = manifest.files[(Path(level.folder) / table.source).as_posix()].sha256
    header = make_header(source_hash, table_hash, table.size)
    places = (folder, cache_folder(bundle) / level.folder)
    for place in places:
        if _is_current(place / level.native.data, header, table.size):
            _copy_graphs(folder, place, level.native.graphs.values())
            return place
    with progress(f"packing the weights of {level.name} for the native kernels, once", table.size) as advance:
        place = _pack_somewhere(folder, places, source_hash, advance)
    _copy_graphs(folder, place, level.native.graphs.values())
    return place


def _is_current(path: Path, header: bytes, size: int) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(PAGE) == header and path.stat().st_size == size
    except OSError:
        return False


def _pack_somewhere(folder: Path, places: Iterable[Path], source_hash: str, advance: Advance) -> Path:
    """The first of ``places`` that takes the packed file; PackingError says why the first one did not."""
    errors: list[PackingError] = []
    for place in places:
        try:
            if place != folder:
                _make_folder(place)
            pack(folder, source_hash, place, advance)
            return place
        except PackingError as error:
            errors.append(error)
    raise errors[0]


def _make_folder(place: Path) -> None:
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PackingError(
            f"{place} cannot be made ({error.strerror}); set POCKETSPEC_CACHE to another folder"
        ) from None


def _copy_graphs(folder: Path, place: Path, names: Iterable[str]) -> None:
    """Puts the graphs beside data that lies elsewhere; the bundle's may have been exported again since the last time."""
    for name in names if place != folder else ():
        part = place / f"{name}.{os.getpid()}.part"
        shutil.copyfile(folder / name, part)
        os.replace(part, place / name)
