"""Bundles of tiny random models, written once; tests that change one copy it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from export.manifest import FILE_NAME, dump_manifest, read_manifest
from memory import Request
from runtime.engine import Engine
from tests.runtime.tiny_bundle import write_foreign_bundle, write_tiny_bundle


@pytest.fixture(scope="session")
def random_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target with the drafters "near" and "far", and a chat template."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def stacked_bundle(random_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random bundle with "near" as intermediate above "far"."""
    folder = shutil.copytree(random_bundle, tmp_path_factory.mktemp("stack") / "bundle")
    manifest = read_manifest(folder)
    levels = tuple(replace(level, role="intermediate") if level.name == "near" else level for level in manifest.levels)
    (folder / FILE_NAME).write_text(dump_manifest(replace(manifest, levels=levels)), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def plain_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same target alone: no drafters, no chat template."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "alone", template=False, drafters=False)


@pytest.fixture(scope="session")
def foreign_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same target in another builder's format."""
    return write_foreign_bundle(tmp_path_factory.mktemp("bundles") / "foreign")


@pytest.fixture(scope="session")
def engine(random_bundle: Path) -> Iterator[Engine]:
    """The random bundle, open for the whole session: nothing a test does may spoil it for the next."""
    with Engine.open(random_bundle, Request(threads=1, shape="tree", nodes=15)) as engine:
        yield engine
