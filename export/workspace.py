"""The folder a bundle grows in: beside its final place, kept while an export is resumed, renamed when it is complete.

Its name carries a key, a hash of everything that was asked, so that a second run with the same request finds the
levels the first one finished and a run with another request does not. A level counts once its marker is written.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from export.manifest import (
    FILE_NAME,
    PACKED_FILE_NAME,
    FileEntry,
    Level,
    Manifest,
    dump_manifest,
    parse_manifest,
    sha256_of,
    write_manifest,
)

_MARKERS = ".levels"


class Workspace:
    """The unfinished bundle of ``output``; ``key`` tells requests apart."""

    def __init__(self, output: Path, key: str) -> None:
        self._output = output
        self.folder = output.with_name(f"{output.name}.{key[:12]}.part")

    def finished(self, folder: str) -> Level | None:
        """The level in ``folder`` if an earlier run completed it."""
        marker = self._marker(folder)
        if not marker.is_file():
            return None
        manifest = parse_manifest(marker.read_text(encoding="utf-8"), str(marker))
        return next(level for level in manifest.levels if level.folder == folder)

    def begin(self, folder: str) -> Path:
        """An empty folder for a level."""
        self._clear(folder)
        place = self.folder / folder
        place.mkdir(parents=True, exist_ok=True)
        return place

    def finish(self, level: Level) -> None:
        """Marks a level as complete.

        The marker is a manifest, which must have a target; beside a partner a stand-in for it is listed.
        """
        marker = self._marker(level.folder)
        marker.parent.mkdir(exist_ok=True)
        target = () if level.role == "target" else (replace(level, name="(target)", folder=".", role="target"),)
        part = marker.with_suffix(".part")
        part.write_text(dump_manifest(Manifest(level.name, (level, *target), {})), encoding="utf-8")
        os.replace(part, marker)

    def discard(self, folder: str) -> None:
        """Removes an unfinished level, and the whole folder if no other level is finished."""
        self._clear(folder)
        if not any(self.folder.glob(f"{_MARKERS}/*.json")):
            shutil.rmtree(self.folder, ignore_errors=True)

    def publish(self, manifest: Manifest) -> None:
        """Writes the manifest and puts the bundle in its place."""
        write_manifest(self.folder, manifest)
        shutil.rmtree(self.folder / _MARKERS, ignore_errors=True)
        os.replace(self.folder, self._output)

    def leftovers(self) -> list[Path]:
        """Folders that unfinished exports to the same output with other requests left."""
        return [path for path in sorted(self._output.parent.glob(f"{self._output.name}.*.part")) if path != self.folder]

    def files(self) -> dict[str, FileEntry]:
        """Every file of the bundle, by its path in it, but for packed weights, which can be made again."""
        entries = {}
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            own = name == FILE_NAME or path.name == PACKED_FILE_NAME or name.startswith(_MARKERS)
            if path.is_file() and not own:
                entries[name] = FileEntry(path.stat().st_size, sha256_of(path))
        return entries

    def _clear(self, folder: str) -> None:
        """Deletes what lies in ``folder``; the target's is the root, whose subfolders belong to other levels."""
        place = self.folder / folder
        if folder != ".":
            shutil.rmtree(place, ignore_errors=True)
            return
        for path in place.glob("*"):
            if path.is_file():
                path.unlink()

    def _marker(self, folder: str) -> Path:
        return self.folder / _MARKERS / f"{folder.replace('/', '-').replace('.', '-')}.json"
