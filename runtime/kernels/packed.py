"""The packed file of a level: found where it is current, else made once, and mapped by every session ever after.

A file is current if its first page and its size are those that packing would write now: they name the layout, the
weights' hash, the table's hash and the bytes. One that is not is made again, and a line says why. Graphs look for their
data beside them, so where the data cannot lie in the bundle, the graphs are copied to it, into the user's folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

from export.manifest import Level, Manifest, PocketspecError
from runtime.kernels.disk import PackingError, make_in_first
from runtime.kernels.layout import LAYOUT_VERSION, PAGE
from runtime.kernels.packing import MAGIC, make_header, pack
from runtime.kernels.table import read_table
from runtime.record import user_folder

# Told how many more bytes are done.
Advance = Callable[[int], None]
# A progress display: a title and the bytes in all give a context with the function that advances it.
Progress = Callable[[str, int], AbstractContextManager[Advance]]


class OtherLayoutError(PocketspecError, ValueError):
    """A level whose native graphs are for packed weights of another layout version."""


def no_progress(title: str, total: int) -> AbstractContextManager[Advance]:
    """A display that shows nothing."""
    return nullcontext(lambda count: None)


def packed_graphs(
    bundle: Path,
    manifest: Manifest,
    level: Level,
    progress: Progress = no_progress,
    notify: Callable[[str], None] = lambda line: None,
) -> Path:
    """The folder of native graphs with their packed weights beside them; PocketspecError if they cannot be made.

    ``level`` has a native form. ``notify`` is told why a file that was there is made again.
    """
    native, folder = level.native, bundle / level.folder
    assert native is not None, level.name
    if native.layout != LAYOUT_VERSION:
        raise OtherLayoutError(
            f"{level.name} is for layout version {native.layout}, this version reads {LAYOUT_VERSION}; export it again"
        )
    table, table_hash = read_table(folder / native.table)
    source_hash = manifest.files[(Path(level.folder) / table.source).as_posix()].sha256
    header = make_header(source_hash, table_hash, table.size)
    graphs = sorted(native.graphs.values())
    hashes = [manifest.files[(Path(level.folder) / name).as_posix()].sha256 for name in graphs]
    places = (folder, _user_place(header, hashes))
    for place in places:
        fault = find_fault(place / native.data, header)
        if fault is None:
            return place
        if (place / native.data).exists():
            notify(f"{place / native.data} {fault}: the weights are packed again")
    with progress(f"packing the weights of {level.name} for the native kernels, once", table.size) as advance:

        def pack_into(place: Path) -> None:
            if place != folder:
                _copy_graphs(folder, place, graphs)
            pack(folder, source_hash, place, advance)

        return make_in_first(places, pack_into)


def find_fault(path: Path, header: bytes) -> str | None:
    """What is wrong with the packed file at ``path``, which should begin with ``header``; None if nothing is."""
    try:
        with path.open("rb") as file:
            found, size = file.read(PAGE), os.fstat(file.fileno()).st_size
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    wanted = json.loads(header)
    if header.startswith(found):  # less than a header if the file was cut off
        return None if size == wanted["bytes"] else f"has {size:,} bytes instead of {wanted['bytes']:,}"
    try:
        fields = dict(json.loads(found))
    except (ValueError, TypeError):
        fields = {}
    if fields.get("magic") != MAGIC:
        return "is no packed file"
    if fields.get("layout") != LAYOUT_VERSION:
        return f"has layout version {fields.get('layout')}, this version reads {LAYOUT_VERSION}"
    return "is of other weights" if fields.get("source") != wanted["source"] else "is for other graphs of these weights"


def _user_place(header: bytes, graph_hashes: Iterable[str]) -> Path:
    """A folder of the user for these weights in this layout with these graphs, wherever the bundle lies."""
    key = hashlib.sha256(header + "".join(graph_hashes).encode()).hexdigest()
    return user_folder() / "packed" / f"{LAYOUT_VERSION}-{key[:16]}"


def _copy_graphs(folder: Path, place: Path, names: Iterable[str]) -> None:
    """Puts the graphs where their data will lie; the data, which comes last, makes the folder one that counts."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        for name in names:
            _copy(folder / name, place / name)
    except OSError as error:
        raise PackingError(
            f"{place} cannot be written ({error.strerror}); set POCKETSPEC_CACHE to another folder"
        ) from None


def _copy(source: Path, target: Path) -> None:
    """Whole or not at all."""
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        shutil.copyfile(source, part)
        os.replace(part, target)
    finally:
        with suppress(OSError):
            part.unlink()
