"""Checks all packed weights of a bundle, for all levels and kernels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from export.manifest import Level, Manifest
from runtime.kernels.weights.content import DAMAGED
from runtime.kernels.weights.disk import PackingError
from runtime.kernels.weights.packed import packed_files
from runtime.kernels.weights.prepacked import place_of


def refuse_damage(bundle: Path, manifest: Manifest) -> None:
    """PackingError if packed weights are damaged. Hashes all of them, except those made for other devices."""
    damaged = [str(path) for level in manifest.levels for path in _damaged(bundle, manifest, level)]
    if damaged:
        raise PackingError(
            f"{', '.join(damaged)}: damaged, the content is not what was packed; the weights are packed again when the"
            " bundle is opened next"
        )


def _damaged(bundle: Path, manifest: Manifest, level: Level) -> Iterator[Path]:
    yield from (path for path, fault in packed_files(bundle, manifest, level, verify=True) if fault == DAMAGED)
    for graph in level.graphs.values():
        yield from place_of(bundle, manifest, level, graph).damaged()
