"""Holds the files of a bundle against its manifest: nothing unlisted is named, nothing listed is missing or changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from export.manifest import DRAFT_VOCABULARY_NAME, FILE_NAME, Manifest, ManifestError


def check_listed(bundle: Path, manifest: Manifest) -> None:
    """ManifestError if a level names a file that is not listed: without a hash it could be any file."""
    for name in _named(manifest):
        if name not in manifest.files:
            path = bundle / FILE_NAME
            raise ManifestError(f"{path} names {name!r} and does not list it among its files; export the bundle again")


def _named(manifest: Manifest) -> Iterator[str]:
    """The files that levels name, by their path in the bundle, without packed weights, which are not exported."""
    for level in manifest.levels:
        names = list(level.graphs.values())
        if level.native is not None:
            names += [*level.native.graphs.values(), level.native.table]
        if level.draft_vocabulary is not None:
            names.append(DRAFT_VOCABULARY_NAME)
        yield from (name if level.folder == "." else f"{level.folder}/{name}" for name in names)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_files(bundle: Path, manifest: Manifest) -> None:
    """ManifestError for the first listed file that is missing, of another size, or changed."""
    for name, entry in manifest.files.items():
        path = bundle / name
        if not os.path.isfile(path):
            raise ManifestError(f"{path} is missing; export the bundle again")
        if (size := path.stat().st_size) != entry.bytes:
            raise ManifestError(f"{path} has {size} bytes, its manifest says {entry.bytes}; export the bundle again")
        try:
            found = sha256_of(path)
        except OSError as error:
            raise ManifestError(f"{path} cannot be read ({error.strerror}); see who may read it") from None
        if found != entry.sha256:
            raise ManifestError(f"{path} was changed: its sha256 is not the manifest's; export the bundle again")
