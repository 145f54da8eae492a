"""A bundle grows beside its place, keeps what is finished, and appears at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from export.bundle_files import verify_files
from export.manifest import (
    DraftHeads,
    DraftVocabulary,
    Level,
    Manifest,
    ModelShape,
    ParallelDrafts,
    Quantization,
    Source,
    Vocabulary,
    read_manifest,
)
from export.writer.workspace import Workspace

TARGET = Level(
    name="big",
    role="target",
    folder=".",
    architecture="llama",
    source=Source("big"),
    shape=ModelShape(1, 32, 64, 4, 2, 8, 96, 64),
    vocabulary=Vocabulary(96, "", (2,)),
    quantization=Quantization("int4", 32, "rtn", 0.1),
    graphs={"fp32": "model.onnx"},
    weight_bytes=3,
)
DRAFTER = replace(TARGET, name="small", role="drafter", folder="drafters/small")
SPECIAL = (
    replace(DRAFTER, parallel=ParallelDrafts(3, 4)),
    replace(DRAFTER, reads=(2,), draft_vocabulary=DraftVocabulary(40)),
    replace(DRAFTER, shape=replace(DRAFTER.shape, layers=0), reads=(1,), heads=DraftHeads(3, 65, True)),
)


def _write(workspace: Workspace, level: Level) -> None:
    (workspace.begin(level.folder) / "model.onnx").write_bytes(b"abc")
    workspace.finish(level)


@pytest.mark.parametrize("level", [TARGET, DRAFTER, *SPECIAL])
def test_a_finished_level_is_found_again_and_an_unfinished_one_is_not(level: Level, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "out", "key")
    assert workspace.finished(level.folder) is None
    workspace.begin(level.folder)
    assert workspace.finished(level.folder) is None
    _write(workspace, level)
    assert Workspace(tmp_path / "out", "key").finished(level.folder) == level
    assert Workspace(tmp_path / "out", "other").finished(level.folder) is None


def test_discarding_a_level_leaves_the_finished_ones(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "out", "key")
    _write(workspace, DRAFTER)
    (workspace.begin(".") / "model.onnx").write_bytes(b"half")
    workspace.discard(".")
    assert not (workspace.folder / "model.onnx").exists()
    assert (workspace.folder / "drafters/small/model.onnx").read_bytes() == b"abc"


def test_discarding_the_only_level_leaves_nothing(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "out", "key")
    (workspace.begin("drafters/small") / "model.onnx").write_bytes(b"half")
    workspace.discard("drafters/small")
    assert list(tmp_path.iterdir()) == []


def test_a_published_bundle_is_complete_and_alone(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "out", "key")
    for level in (TARGET, DRAFTER):
        _write(workspace, level)
    assert not (tmp_path / "out").exists()
    manifest = Manifest("big", (TARGET, DRAFTER), workspace.files())
    workspace.publish(manifest)
    assert sorted(manifest.files) == ["drafters/small/model.onnx", "model.onnx"]
    assert read_manifest(tmp_path / "out") == manifest
    verify_files(tmp_path / "out", manifest)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.onnx", "drafters", "pocketspec.json"}
