"""Portable weights that stay in their file: ONNX Runtime's own packed form, made once on this device and mapped after.

ONNX Runtime copies weights into the layout of its kernels when it opens a graph. It can also write that layout down, as
a graph and a data file beside it. A pair of these lies in a folder named after everything it depends on, in the bundle
or else in the user's folder. One that is cut off or was made for something else is made again, and a line says why.

Graphs of one level for several KV types have the same weights: their data files are one file with several names where
the disk allows it. Left out: bundles of other builders, whose files nobody has hashed; their weights are copied.
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

FORMAT = 2  # 2: a hash of the data
_PAIR = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Home:
    """A ``folder`` for pairs of one graph in ``root``, which is a bundle or the user's."""

    root: Path
    folder: Path


@dataclass(frozen=True)
class Place:
    """Where the pair of one graph lies or would lie. ``homes``, best first, hold one current pair in all, not more.

    ``records``: the folder for what was found out of the bundle.
    """

    pair: Pair
    homes: tuple[Home, ...]
    records: Path

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of a current pair."""
        return tuple(home.folder / _digest(self.pair.key) for home in self.homes)

    def find(self, verify: bool = False) -> Path | None:
        """The folder with the current pair; None if there is none. ``verify``: it is hashed even if unchanged."""
        check = checker(self.records, verify)
        for home, folder in zip(self.homes, self.folders, strict=True):
            if not holds_link(home.root, folder) and find_fault(folder, self.pair.key, check) is None:
                return folder
        return None

    def faulty(self) -> Iterator[tuple[Home, Path, str]]:
        """The folders of pairs that cannot be used, and what is wrong with each."""
        check = checker(self.records)
        for home in self.homes:
            for folder in _folders(home):
                if fault := find_fault(folder, self.pair.key, check):
                    yield home, folder, fault

    def damaged(self) -> Iterator[Path]:
        """The packed weights that are for this graph and this device and are not what was packed; all are hashed."""
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
    """The graph that finds its packed weights beside it, made where there is none; PackingError if it cannot be.

    Making it takes the memory of a session that copies the weights, for once, in another process. ``notify`` is told
    why a pair that was there is made again. ``verify``: packed weights are hashed even if they seem unchanged.
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
    """The data files of the current pairs of ``level``; one file with several names counts once."""
    files: dict[tuple[int, int], Path] = {}
    for graph in level.graphs.values():
        folder = place_of(bundle, manifest, level, graph).find()
        if folder is not None and (folder / DATA).is_file():
            status = (folder / DATA).stat()
            files.setdefault((status.st_dev, status.st_ino), folder / DATA)
    return tuple(files.values())


def _folders(home: Home) -> Iterator[Path]:
    """The folders of pairs in a home that no link leads to; parts of pairs are none."""
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
