"""The native library, compiled from the sources as they are, and a bundle that has a native form."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from runtime.kernels.build import LIBRARY, SOURCES, BuildError, build, find_compiler


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
    made = LIBRARY.stat().st_mtime_ns if LIBRARY.is_file() else 0
    if any(file.stat().st_mtime_ns > made for file in (*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h"))):
        build()
    return LIBRARY


@pytest.fixture
def native_bundle(tiny_bundle_int4: Path, tmp_path: Path) -> Path:
    """A copy of the int4 bundle as exported, its weights not packed yet."""
    return shutil.copytree(
        tiny_bundle_int4, tmp_path / "bundle", ignore=shutil.ignore_patterns(".device", "*.data.part", "native.data")
    )
