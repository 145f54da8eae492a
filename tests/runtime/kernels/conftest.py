"""The native library, compiled from the sources as they are, and bundles that have a native form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from export.manifest import FileEntry, read_manifest, sha256_of, write_manifest
from runtime.kernels.build import LIBRARY, BuildError, build, find_compiler, is_stale
from tests.runtime.tiny_bundle import write_tiny_bundle


@pytest.fixture(scope="session")
def compiler() -> str:
    """A C++ compiler; skips where there is none."""
    try:
        return find_compiler().command[0]
    except BuildError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def native_library(compiler: str) -> Path:
    """The library that installation builds, built again if a source has changed since."""
    if is_stale():
        build()
    return LIBRARY


@pytest.fixture(scope="session")
def native_bundle(native_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with an int4 target, all levels in their native form too; "far" stays fp32 and has none."""
    folder = write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "native", target_bits=4)
    return add_native_form(folder)


def add_native_form(bundle: Path) -> Path:
    """Writes the native graphs of every level that can have them, as an export does."""
    from export.native.build import write_native

    manifest = read_manifest(bundle)
    levels = []
    for level in manifest.levels:
        before = set((bundle / level.folder).iterdir())
        levels.append(replace(level, native=write_native(bundle / level.folder)))
        files = {path: path.relative_to(bundle).as_posix() for path in set((bundle / level.folder).iterdir()) - before}
        entries = {name: FileEntry(path.stat().st_size, sha256_of(path)) for path, name in files.items()}
        manifest = replace(manifest, files={**manifest.files, **entries})
    write_manifest(bundle, replace(manifest, levels=tuple(levels)))
    return bundle
