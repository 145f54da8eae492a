"""The packed file of a level: found if it is current, else made once; sessions map it.

A file is current if its header names the layout, the hash of the weights, the hash of the table and the size that
packing would write now, and the rest of the file has the hash that the header names. Any other file is made again, and
a line says why. Graphs look for their data in their own folder. So if the data cannot be in the bundle, the graphs are
copied to the user's folder as well.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.manifest import PACKED_FILE_NAME, PACKING_TABLE_NAME, Level, Manifest, PocketspecError
from export.own_files import holds_link, make_folder, part_of
from export.untrusted import UntrustedError, leaving_links, parse_own_json, shown
from runtime.bundle.device_cache import device_folder, user_folder
from runtime.kernels.weights.content import DAMAGED, Check, checker, record_whole
from runtime.kernels.weights.disk import PackingError, make_in_first, require_place
from runtime.kernels.weights.layout import LAYOUT_VERSION, PAGE
from runtime.kernels.weights.packing import MAGIC, pack
from runtime.kernels.weights.packing_table import TableError, read_table

# Called with the number of further bytes done.
Advance = Callable[[int], None]
# A progress display: called with a title and a number of bytes, it gives a context with the function that advances it.
Progress = Callable[[str, int], AbstractContextManager[Advance]]


class OtherLayoutError(PocketspecError, ValueError):
    """A level whose native graphs expect packed weights of another layout version."""


def no_progress(title: str, total: int) -> AbstractContextManager[Advance]:
    """A progress display that shows nothing."""
    return nullcontext(lambda count: None)


def packed_graphs(
    bundle: Path,
    manifest: Manifest,
    level: Level,
    progress: Progress = no_progress,
    notify: Callable[[str], None] = lambda line: None,
    verify: bool = False,
) -> Path:
    """The folder of native graphs with their packed weights beside them; PocketspecError if they cannot be made.

    ``level`` must have a native form. ``notify`` is told why an existing file is made again. ``verify``: the packed
    weights are hashed even if they seem unchanged.
    """
    native, folder = level.native, bundle / level.folder
    assert native is not None, level.name
    if native.layout != LAYOUT_VERSION:
        raise OtherLayoutError(
            f"{level.name} is for layout version {native.layout}, this version reads {LAYOUT_VERSION}; export it again"
        )
    packed, graphs = _describe(bundle, manifest, level), _graphs_beside(manifest, level)
    places = _places(bundle, manifest, level, packed)
    check = checker(device_folder(bundle), verify)
    faults = []
    for place in places:
        if (fault := packed.find_fault(bundle, place, check)) is None:
            return place
        if os.path.lexists(place / native.data):
            faults.append(f"{place / native.data} {fault}: the weights are packed again")
    require_place((bundle, user_folder()))
    for line in faults:
        notify(line)
    with progress(f"packing the weights of {level.name} for the native kernels, once", packed.size) as advance:

        def pack_into(place: Path) -> None:
            if place != folder:
                _copy_graphs(folder, place, graphs)
            elif holds_link(bundle, place):
                raise PackingError(f"{place} is reached by a link, which is not followed")
            path = pack(folder, packed.source, place, advance)
            record_whole(device_folder(bundle), path, str(read_header(path)["content"]))

        return make_in_first(places, pack_into)


@dataclass(frozen=True)
class Packed:
    """What a packed file must match: SHA-256 of weights and table, and its ``size`` in bytes."""

    source: str
    table: str
    size: int

    def find_fault(self, bundle: Path, place: Path, check: Check) -> str | None:
        """The fault of the packed file in folder ``place``; None if there is none."""
        path = place / PACKED_FILE_NAME
        root = bundle if place.is_relative_to(bundle) else user_folder()
        if any(leaving_links(root, [path.relative_to(root).as_posix()])):
            return "is a link that leaves its folder"
        try:
            fields, size = read_header(path), path.stat().st_size
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        if size < PAGE:
            return f"has {size:,} bytes instead of {self.size:,}"
        if fields.get("magic") != MAGIC:
            return "is no packed file"
        if fields.get("layout") != LAYOUT_VERSION:
            return f"has layout version {shown(fields.get('layout'))}, this version reads {LAYOUT_VERSION}"
        if fields.get("source") != self.source:
            return "is of other weights"
        if fields.get("table") != self.table or fields.get("bytes") != self.size:
            return "is for other graphs of these weights"
        if size != self.size:
            return f"has {size:,} bytes instead of {self.size:,}"
        content = fields.get("content")
        if not isinstance(content, str):
            return "does not say what its content should be, as those of earlier versions"
        return None if check(path, content, PAGE) else DAMAGED


def read_header(path: Path) -> dict[str, Any]:
    """The fields of a packed file's header; none if it cannot be understood. OSError if it cannot be read."""
    with path.open("rb") as file:
        page = file.read(PAGE)
    try:
        fields = parse_own_json(page)
    except UntrustedError:
        return {}
    return fields if isinstance(fields, dict) else {}


def packed_files(bundle: Path, manifest: Manifest, level: Level, verify: bool) -> Iterator[tuple[Path, str | None]]:
    """The existing packed files of ``level``, and the fault of each, if it has one."""
    if level.native is None or level.native.layout != LAYOUT_VERSION:
        return
    packed, check = _describe(bundle, manifest, level), checker(device_folder(bundle), verify)
    for place in _places(bundle, manifest, level, packed):
        if (place / PACKED_FILE_NAME).is_file():
            yield place / PACKED_FILE_NAME, packed.find_fault(bundle, place, check)


def _describe(bundle: Path, manifest: Manifest, level: Level) -> Packed:
    table, table_hash = read_table(bundle / level.folder / PACKING_TABLE_NAME)
    source = (Path(level.folder) / table.source).as_posix()
    if source not in manifest.files:
        raise TableError(f"{level.name} is packed from {source!r}, which its bundle does not list; export it again")
    return Packed(manifest.files[source].sha256, table_hash, table.size)


def _places(bundle: Path, manifest: Manifest, level: Level, packed: Packed) -> tuple[Path, Path]:
    """Folders for the packed file: that of the level, and one of the user for these weights and graphs."""
    assert level.native is not None
    names = ((Path(level.folder) / name).as_posix() for name in _graphs_beside(manifest, level))
    graphs = "".join(manifest.files[name].sha256 for name in names)
    key = f"{MAGIC} {packed.source} {packed.table} {packed.size} {graphs}"
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return bundle / level.folder, user_folder() / "packed" / f"{LAYOUT_VERSION}-{digest}"


def _graphs_beside(manifest: Manifest, level: Level) -> list[str]:
    """The native graphs in the folder of ``level``: its own, and those of levels that read the same weights."""
    forms = (other.native for other in manifest.levels if other.folder == level.folder)
    return sorted(name for form in forms if form is not None for name in form.graphs.values())


def _copy_graphs(folder: Path, place: Path, names: Iterable[str]) -> None:
    """Copies the graphs to the folder of their data. The data is written last: it makes the folder count."""
    try:
        make_folder(user_folder(), place)
        for name in names:
            _copy(folder / name, place / name)
    except OSError as error:
        raise PackingError(
            f"{place} cannot be written ({error.strerror}); set POCKETSPEC_CACHE to another folder"
        ) from None


def _copy(source: Path, target: Path) -> None:
    """Copies a file completely or not at all."""
    part = part_of(target)
    try:
        shutil.copyfile(source, part)
        os.replace(part, target)
    finally:
        with suppress(OSError):
            part.unlink()
