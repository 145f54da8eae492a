"""The workspace: the folder in which a bundle grows, beside its output, until it is complete and renamed.

Its name has a key, a hash of the request. So a second run with the same request finds the levels that the first one
finished, and a run with another request does not. A level is finished once its marker is written.
"""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

from export.bundle_files import sha256_of
from export.manifest import (
    FILE_NAME,
    PACKED_FILE_NAME,
    FileEntry,
    Level,
    Manifest,
    PocketspecError,
    dump_manifest,
    parse_manifest,
    write_manifest,
)
from export.own_files import MARKER, holds_link, is_marked, make_folder, mark
from export.untrusted import MOST_JSON, UntrustedError, read_text

_MARKERS = ".levels"


class WorkspaceError(PocketspecError, OSError):
    """A workspace that cannot be used, because something else is in its place."""


class Workspace:
    """The unfinished bundle of ``output``; ``key`` tells requests apart."""

    def __init__(self, output: Path, key: str) -> None:
        self._output = output
        self.folder = output.with_name(f"{output.name}.{key[:12]}.part")

    def finished(self, folder: str) -> Level | None:
        """The level in ``folder`` if an earlier run finished it, else None; WorkspaceError if its marker is damaged."""
        marker = self._marker(folder)
        if not marker.is_file():
            return None
        try:
            manifest = parse_manifest(read_text(marker, MOST_JSON), str(marker))
            return next(level for level in manifest.levels if level.folder == folder)
        except (PocketspecError, UntrustedError, StopIteration):
            raise WorkspaceError(f"{marker} is damaged; delete {self.folder} and export again") from None

    def begin(self, folder: str) -> Path:
        """An empty folder for a level; WorkspaceError if a link leads there, or if no export made the workspace."""
        root, place = self._output.parent, self.folder / folder
        try:
            if self.folder.exists() and not self._is_ours():
                raise WorkspaceError(f"{self.folder} is in the way, and no export made it; move it elsewhere")
            make_folder(root, self.folder)
            mark(self.folder)
            self._clear(folder)
            make_folder(root, place)
        except FileExistsError:
            raise WorkspaceError(f"{place} is in the way, which is no folder; move it elsewhere") from None
        except OSError as error:
            if isinstance(error, PocketspecError) or error.errno != errno.ELOOP:
                raise
            raise WorkspaceError(f"{place} is reached by a link, which is not followed; delete the link") from None
        return place

    def finish(self, level: Level) -> None:
        """Marks a level as complete.

        The marker is a manifest. That must have a target, so a partner's marker lists a stand-in for it.
        """
        marker = self._marker(level.folder)
        marker.parent.mkdir(exist_ok=True)
        target = () if level.role == "target" else (_stand_in(level),)
        part = marker.with_suffix(".part")
        part.write_text(dump_manifest(Manifest(level.name, (level, *target), {})), encoding="utf-8")
        os.replace(part, marker)

    def discard(self, folder: str) -> None:
        """Removes an unfinished level, and the whole workspace if no level is finished."""
        self._clear(folder)
        if self._is_ours() and not any(self.folder.glob(f"{_MARKERS}/*.json")):
            shutil.rmtree(self.folder, ignore_errors=True)

    def publish(self, manifest: Manifest) -> None:
        """Writes the manifest and renames the workspace to the output."""
        write_manifest(self.folder, manifest)
        shutil.rmtree(self.folder / _MARKERS, ignore_errors=True)
        (self.folder / MARKER).unlink(missing_ok=True)
        if self._output.is_dir():  # an empty one, which Windows does not replace
            self._output.rmdir()
        os.replace(self.folder, self._output)

    def leftovers(self) -> list[Path]:
        """Workspaces of unfinished exports to the same output with other requests."""
        return [path for path in sorted(self._output.parent.glob(f"{self._output.name}.*.part")) if path != self.folder]

    def files(self) -> dict[str, FileEntry]:
        """Every file of the bundle by its path in it, without packed weights, which can be made again."""
        entries = {}
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            own = name in (FILE_NAME, MARKER) or path.name == PACKED_FILE_NAME or name.startswith(_MARKERS)
            if path.is_file() and not own:
                entries[name] = FileEntry(path.stat().st_size, sha256_of(path))
        return entries

    def _clear(self, folder: str) -> None:
        """Deletes the content of ``folder``; that of the target is the root, where other levels have subfolders."""
        place = self.folder / folder
        if not self._is_ours() or holds_link(self._output.parent, place):
            return
        if folder != ".":
            shutil.rmtree(place, ignore_errors=True)
            return
        for path in place.glob("*"):
            if (path.is_file() or path.is_symlink()) and path.name != MARKER:
                path.unlink()

    def _is_ours(self) -> bool:
        """Whether an export made the workspace and no link leads there; early versions marked finished levels alone."""
        if holds_link(self._output.parent, self.folder) or not self.folder.is_dir():
            return False
        is_old = any(self.folder.glob(f"{_MARKERS}/*.json"))
        return is_marked(self.folder) or is_old or not any(self.folder.iterdir())

    def _marker(self, folder: str) -> Path:
        return self.folder / _MARKERS / f"{folder.replace('/', '-').replace('.', '-')}.json"


def _stand_in(level: Level) -> Level:
    """A target that a manifest with ``level`` may have."""
    taps, shape = level.reads, replace(level.shape, layers=max(1, level.shape.layers, *level.reads))
    whole = replace(level, shape=shape, taps=taps, reads=(), parallel=None, draft_vocabulary=None, heads=None)
    return replace(whole, name="(target)", folder=".", role="target")
