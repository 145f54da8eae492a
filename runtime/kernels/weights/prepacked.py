"""Mapped weights for portable kernels: ONNX Runtime's own packed form, made once on this device.

ONNX Runtime copies weights into the layout of its kernels when it opens a graph. It can also write that layout to disk,
as a graph with a data file: a *pair*. The folder of a pair is named after everything that the pair depends on; it is in
the bundle or in the user's folder. A pair that is incomplete, or was made for something else, is made again, and a line
says why.

Graphs of one level for several KV types have the same weights, so their data files are links to one file where the disk
allows it. Bundles of other builders are left out, because their files are not hashed; their weights are copied.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from export.manifest import DEVICE_FOLDER, Level, Manifest
from export.own_files import MARKER, holds_link, remove_tree
from runtime.bundle.device_cache import device_folder, user_folder
from runtime.hardware import processor_features
from runtime.kernels.weights.content import DAMAGED, checker, record_whole
from runtime.kernels.weights.disk import make_in_first, require_place
from runtime.kernels.weights.packed import Progress, no_progress
from runtime.kernels.weights.prepacking import DATA, DESCRIPTION, GRAPH, Description, Pair, find_fault, prepack

FORMAT = 2  # 2: has a hash of the data
_PAIR = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Home:
    """A ``folder`` for pairs of one graph; ``root``, a bundle or the user's folder, contains it."""

    root: Path
    folder: Path


@dataclass(frozen=True)
class Place:
    """Where the pair of one graph is, or will be. ``homes``, best first, hold at most one current pair in all.

    ``records`` is the folder for results about the bundle.
    """

    pair: Pair
    homes: tuple[Home, ...]
    records: Path

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where the current pair would be: one folder for each home."""
        return tuple(home.folder / _digest(self.pair.key) for home in self.homes)

    def find(self, verify: bool = False) -> Path | None:
        """The folder of the current pair; None if there is none. ``verify``: it is hashed even if unchanged."""
        check = checker(self.records, verify)
        for home, folder in zip(self.homes, self.folders, strict=True):
            if not holds_link(home.root, folder) and find_fault(folder, self.pair.key, check) is None:
                return folder
        return None

    def faulty(self) -> Iterator[tuple[Home, Path, str]]:
        """Folders of pairs that cannot be used, and the fault of each."""
        check = checker(self.records)
        for home in self.homes:
            for folder in _folders(home):
                if fault := find_fault(folder, self.pair.key, check):
                    yield home, folder, fault

    def damaged(self) -> Iterator[Path]:
        """Packed data for this graph and this device that differs from what was packed; everything is hashed."""
        check = checker(self.records, fresh=True)
        for folder in self.folders:
            if find_fault(folder, self.pair.key, check) == DAMAGED:
                yield folder / DATA


def prepacked_graph(
    place: Place,
    progress: Progress = no_progress,
    notify: Callable[[str], None] = lambda line: None,
    verify: bool = False,
) -> Path:
    """The graph of the pair, made if there is none; PackingError if it cannot be made.

    Making it takes the memory of a session that copies the weights, once, in another process. ``notify`` is told why an
    existing pair is made again. ``verify``: packed weights are hashed even if they seem unchanged.
    """
    found = place.find(verify)
    if found is not None:
        return found / GRAPH
    require_place(home.root for home in place.homes)
    faulty = list(place.faulty())
    for _, folder, fault in faulty:
        notify(f"{folder} {fault}: the weights are packed again")
    roots = dict(zip(place.folders, (home.root for home in place.homes), strict=True))
    title = f"packing the weights of {place.pair.level.name} for ONNX Runtime's kernels, once"
    with progress(title, place.pair.bytes) as advance:
        made = make_in_first(place.folders, lambda folder: prepack(place.pair, folder, roots[folder]))
        advance(place.pair.bytes)
    made_of = Description.read(made)
    if made_of is not None and made_of.data is not None:
        record_whole(place.records, made / DATA, made_of.data)
    for home, folder, _ in faulty:
        if folder != made:
            remove_tree(home.root, folder, (MARKER, DESCRIPTION))
    return made / GRAPH


def prepacked_data(bundle: Path, manifest: Manifest, level: Level) -> tuple[Path, ...]:
    """The data files of the current pairs of ``level``; links to one file count once."""
    files: dict[tuple[int, int], Path] = {}
    for graph in level.graphs.values():
        folder = place_of(bundle, manifest, level, graph).find()
        if folder is not None and (folder / DATA).is_file():
            status = (folder / DATA).stat()
            files.setdefault((status.st_dev, status.st_ino), folder / DATA)
    return tuple(files.values())


def _folders(home: Home) -> Iterator[Path]:
    """The folders of complete pairs in a home; links are not followed."""
    if holds_link(home.root, home.folder) or not home.folder.is_dir():
        return
    for path in sorted(home.folder.iterdir()):
        if _PAIR.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            yield path


def place_of(bundle: Path, manifest: Manifest, level: Level, graph: str) -> Place:
    """The place for the pair of ``graph``, one of the portable graphs of ``level``."""
    entries = {
        Path(path).name: entry
        for path, entry in sorted(manifest.files.items())
        if Path(path).parent == Path(level.folder) and (path.endswith(".onnx.data") or Path(path).name == graph)
    }
    hashes = {name: entry.sha256 for name, entry in entries.items()}
    key = {
        "format": FORMAT,
        "weights": hashes,
        "onnxruntime": ort.__version__,
        "processor": [platform.machine(), _digest(sorted(processor_features()))],
    }
    pair = Pair(level, bundle / level.folder / graph, key, sum(entry.bytes for entry in entries.values()))
    weights = _digest({name: value for name, value in hashes.items() if name != graph} or hashes)
    ours = Home(bundle, bundle / DEVICE_FOLDER / "prepacked" / level.folder / graph)
    users = Home(user_folder(), user_folder() / "prepacked" / weights / graph)
    return Place(pair, (ours, users), device_folder(bundle))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
