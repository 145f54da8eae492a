"""ONNX Runtime's packed weights in a file: same bits, no copies, shared by processes, in folders of ours."""

from __future__ import annotations

import os
import shutil
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from export.manifest import read_manifest
from runtime.bundle.foreign import read_bundle
from runtime.kernels.backends import PORTABLE
from runtime.kernels.selection import Chooser
from runtime.kernels.weights import prepacked, prepacking
from runtime.kernels.weights.disk import PackingError
from runtime.kernels.weights.packed import Advance, no_progress
from runtime.kernels.weights.prepacked import place_of, prepacked_graph
from runtime.models.ort_model import OrtModel, open_session
from tests.runtime.kernels.weights.pairs import logits, pairs, read_only
from tests.runtime.kernels.weights.weighty import MAX_ROWS, found_by, open_target, started, write_weighty_bundle


@pytest.mark.parametrize("bits", [4, 32])
def test_results_are_those_of_copied_weights_bit_for_bit(tmp_path: Path, bits: int) -> None:
    bundle = write_weighty_bundle(tmp_path / "bundle", bits=bits)
    copied = OrtModel(open_session(bundle / "model.onnx", 1), 4 * MAX_ROWS, MAX_ROWS, MAX_ROWS)
    mapped = open_target(bundle)
    assert mapped.kernels.residence == "prepacked"
    for width in (2, 4, 8):
        assert np.array_equal(logits(copied, width), logits(mapped, width))
    assert (mapped.kernels.name, mapped.kernels.key) == (PORTABLE.name, PORTABLE.key)


def test_a_pair_is_made_once(bundle: Path) -> None:
    notes: list[str] = []
    open_target(bundle, notify=notes.append)
    (folder,) = pairs(bundle)
    names = [".pocketspec", "model.onnx", "model.onnx.data", "prepacked.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    made = {path: path.stat().st_ino for path in folder.iterdir()}
    model = open_target(bundle, notify=notes.append)
    assert {path: path.stat().st_ino for path in folder.iterdir()} == made
    assert model.kernels.mapped_files(read_manifest(bundle).target) == (folder / "model.onnx.data",)
    assert notes == []


@pytest.mark.parametrize("linked", [".device", ".device/prepacked", ".device/prepacked/model.onnx"])
def test_links_in_place_of_folders_are_not_followed(bundle: Path, tmp_path: Path, linked: str) -> None:
    """Neither written to nor emptied: what lies behind is not ours, whatever it looks like."""
    other = tmp_path / "other"
    open_target(bundle)
    (folder,) = pairs(bundle)
    (folder / "model.onnx.data").write_bytes(b"cut off")
    for name in ("0123456789abcdef", "photographs"):
        shutil.copytree(folder, bundle / ".device/prepacked/model.onnx" / name)
    (bundle / linked).rename(other)
    (bundle / linked).symlink_to(other)
    before = {path: path.stat().st_mtime_ns for path in other.rglob("*")}
    open_target(bundle)
    assert {path: path.stat().st_mtime_ns for path in other.rglob("*")} == before
    assert len(pairs(tmp_path / "user")) == 1


def test_only_folders_of_ours_are_deleted(bundle: Path) -> None:
    open_target(bundle)
    (folder,) = pairs(bundle)
    old, foreign, named = (folder.with_name(name) for name in ("0" * 16, "1" * 16, "photographs"))
    shutil.copytree(folder, old)
    (old / ".pocketspec").unlink()  # as earlier versions left it
    (old / "prepacked.json").write_text('{"key": {"format": 1}, "bytes": {}, "graph": ""}')
    for path in (foreign, named):
        path.mkdir()
        (path / "picture").touch()
    shutil.rmtree(folder)
    open_target(bundle)
    assert pairs(bundle) == sorted([folder, foreign, named])


def test_a_bundle_that_cannot_be_written_has_its_pair_in_the_users_folder(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_only(monkeypatch, bundle)
    model = open_target(bundle)
    assert pairs(bundle) == []
    (folder,) = pairs(bundle.parent / "user")
    assert model.kernels.mapped_files(read_manifest(bundle).target) == (folder / "model.onnx.data",)
    shutil.copytree(bundle, bundle.parent / "elsewhere")
    monkeypatch.setattr(prepacked, "prepack", None)  # a second packing would fail
    assert open_target(bundle.parent / "elsewhere").kernels.residence == "prepacked"


def test_processes_that_pack_at_once_both_end_well(bundle: Path) -> None:
    with started(bundle, "portable") as first, started(bundle, "portable") as second:
        for found in (found_by(first), found_by(second)):
            assert found["residence"] == "prepacked"
            assert found["files"] == [str(pairs(bundle)[0] / "model.onnx.data")]
    assert len(pairs(bundle)) == 1


def test_what_another_process_has_just_made_is_left(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_target(bundle)
    (folder,) = pairs(bundle)
    before = (folder / "model.onnx.data").stat().st_ino
    monkeypatch.delattr(os, "link")  # which would make the two one file again
    manifest = read_manifest(bundle)
    prepacking.prepack(place_of(bundle, manifest, manifest.target, "model.onnx").pair, folder, bundle)
    assert (folder / "model.onnx.data").stat().st_ino == before
    assert pairs(bundle) == [folder]


@pytest.mark.skipif(
    tuple(map(int, ort.__version__.split(".")[:2])) < (1, 27), reason="ONNX Runtime has no fp16 caches on CPUs yet"
)
def test_graphs_of_several_kv_types_share_one_file_of_weights(tmp_path: Path) -> None:
    bundle = write_weighty_bundle(tmp_path / "bundle", kv_types=2)
    open_target(bundle)
    model = open_target(bundle, kv_type="fp16")
    files = sorted((bundle / ".device").glob("**/model.onnx.data"))
    assert len(files) == 2
    assert len({file.stat().st_ino for file in files}) == 1
    assert len(model.kernels.mapped_files(read_manifest(bundle).target)) == 1


def test_bundles_of_other_builders_are_copied_and_not_written_to(foreign_bundle: Path) -> None:
    before = sorted(foreign_bundle.rglob("*"))
    manifest = read_bundle(foreign_bundle)
    found = Chooser("portable").open(foreign_bundle, manifest, manifest.target, lambda kernels: kernels)
    assert found.residence == Chooser("auto").expected_residence(manifest, manifest.target) == "copied"
    assert sorted(foreign_bundle.rglob("*")) == before


def test_nothing_is_left_of_a_pair_that_was_interrupted(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(part: Path, folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepacking, "_put_in_place", interrupt)
    manifest = read_manifest(bundle)
    with pytest.raises(KeyboardInterrupt):
        prepacked_graph(place_of(bundle, manifest, manifest.target, "model.onnx"), no_progress)
    assert pairs(bundle) == []


def test_packing_says_what_it_does(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = read_manifest(bundle)
    titles: list[str] = []

    def show(title: str, total: int) -> AbstractContextManager[Advance]:
        titles.append(title)
        return no_progress(title, total)

    place = place_of(bundle, manifest, manifest.target, "model.onnx")
    prepacked_graph(place, show)
    assert titles == ["packing the weights of weighty for ONNX Runtime's kernels, once"]
    read_only(monkeypatch, bundle.parent)
    shutil.rmtree(bundle / ".device")
    with pytest.raises(PackingError, match="cannot be written"):
        prepacked_graph(place)
