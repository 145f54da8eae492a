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
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from export.manifest import Level, Manifest
from runtime.devices import processor_features
from runtime.kernels.disk import make_in_first
from runtime.kernels.packed import Progress, no_progress
from runtime.kernels.prepacking import DATA, GRAPH, Pair, find_fault, prepack
from runtime.record import user_folder

FORMAT = 1


@dataclass(frozen=True)
class Place:
    """Where the pair of one graph lies or would lie. ``homes``, best first, hold one current pair in all, not more."""

    pair: Pair
    homes: tuple[Path, ...]

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of a current pair."""
        return tuple(home / _digest(self.pair.key) for home in self.homes)

    def find(self) -> Path | None:
        """The folder with the current pair; None if there is none."""
        return next((folder for folder in self.folders if find_fault(folder, self.pair.key) is None), None)

    def faulty(self) -> Iterator[tuple[Path, str]]:
        """The folders of pairs that cannot be used, and what is wrong with each."""
        for home in self.homes:
            for folder in sorted(home.glob("*/")):
                fault = find_fault(folder, self.pair.key)
                if fault is not None and not folder.name.endswith(".part"):
                    yield folder, fault


def prepacked_graph(
    place: Place, progress: Progress = no_progress, notify: Callable[[str], None] = lambda line: None
) -> Path:
    """The graph that finds its packed weights beside it, made where there is none; PackingError if it cannot be.

    Making it takes the memory of a session that copies the weights, for once, in another process. ``notify`` is told
    why a pair that was there is made again.
    """
    found = place.find()
    if found is not None:
        return found / GRAPH
    faulty = list(place.faulty())
    for folder, fault in faulty:
        notify(f"{folder} {fault}: the weights are packed again")
    title = f"packing the weights of {place.pair.level.name} for ONNX Runtime's kernels, once"
    with progress(title, place.pair.bytes) as advance:
        made = make_in_first(place.folders, lambda folder: prepack(place.pair, folder))
        advance(place.pair.bytes)
    for folder, _ in faulty:
        if folder != made:
            shutil.rmtree(folder, ignore_errors=True)
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
    homes = (bundle / ".device" / "prepacked" / level.folder, user_folder() / "prepacked" / weights)
    return Place(pair, tuple(home / graph for home in homes))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
