"""Which packed file is used, made again, put elsewhere, or refused."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from export.manifest import NativeForm
from runtime.kernels.weights import content, packing
from runtime.kernels.weights.content import DAMAGED
from runtime.kernels.weights.disk import PackingError
from runtime.kernels.weights.packed import OtherLayoutError, packed_files, packed_graphs
from runtime.kernels.weights.packing_table import TableError
from tests.runtime.kernels.weights.packable import write_bundle


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for a bundle; the user's folder is beside it."""
    monkeypatch.setenv("POCKETSPEC_CACHE", str(tmp_path / "user"))
    return tmp_path / "bundle"


def test_a_packed_file_is_made_once(bundle: Path) -> None:
    manifest = write_bundle(bundle)
    notes: list[str] = []
    assert packed_graphs(bundle, manifest, manifest.target, notify=notes.append) == bundle
    made = (bundle / "native.data").stat()
    assert packed_graphs(bundle, manifest, manifest.target, notify=notes.append) == bundle
    again = (bundle / "native.data").stat()
    assert (made.st_ino, made.st_mtime_ns) == (again.st_ino, again.st_mtime_ns)
    assert notes == []


def replaced(path: Path, old: bytes, new: bytes) -> None:
    path.write_bytes(path.read_bytes().replace(old, new, 1))


def zeroed(path: Path, first: int, count: int) -> None:
    with path.open("r+b") as file:
        file.seek(first)
        file.write(bytes(count))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: os.truncate(path, 5000), "has 5,000 bytes instead of"),
        (lambda path: os.truncate(path, 50), "has 50 bytes instead of"),
        (lambda path: path.write_bytes(b"\xff" * 9000), "is no packed file"),
        (lambda path: replaced(path, b'"layout": 1', b'"layout": 9'), "has layout version 9, this version reads 1"),
        (lambda path: replaced(path, b'"source": "', b'"source": "x'), "is of other weights"),
        (lambda path: replaced(path, b'"table": "', b'"table": "x'), "is for other graphs of these weights"),
        (lambda path: replaced(path, b'"content"', b'"connect"'), "does not say what its content should be"),
        (lambda path: replaced(path, b'"layout": 1', b'"layout": ' + b"9" * 3900), "is no packed file"),
        (lambda path: zeroed(path, 5000, 100), "is damaged, for its content is not what was packed"),
    ],
)
def test_a_file_that_is_not_current_is_made_again(bundle: Path, damage: Callable[[Path], None], message: str) -> None:
    manifest = write_bundle(bundle)
    packed_graphs(bundle, manifest, manifest.target)
    wanted = (bundle / "native.data").read_bytes()
    damage(bundle / "native.data")
    notes: list[str] = []
    packed_graphs(bundle, manifest, manifest.target, notify=notes.append)
    assert (bundle / "native.data").read_bytes() == wanted
    (note,) = notes
    assert message in note
    assert "\n" not in note


def test_damage_that_changes_neither_size_nor_time_is_found_on_demand(bundle: Path) -> None:
    """As where a card loses pages. What was found on demand is known from then on."""
    manifest = write_bundle(bundle)
    packed_graphs(bundle, manifest, manifest.target)
    path = bundle / "native.data"
    wanted, status = path.read_bytes(), path.stat()
    zeroed(path, 5000, 100)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert [fault for _, fault in packed_files(bundle, manifest, manifest.target, verify=False)] == [None]
    assert [fault for _, fault in packed_files(bundle, manifest, manifest.target, verify=True)] == [DAMAGED]
    notes: list[str] = []
    packed_graphs(bundle, manifest, manifest.target, notify=notes.append)
    assert path.read_bytes() == wanted
    assert notes == [f"{path} {DAMAGED}: the weights are packed again"]


def test_packed_weights_that_seem_unchanged_are_not_hashed_again(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_bundle(bundle)
    packed_graphs(bundle, manifest, manifest.target)
    monkeypatch.setattr(content, "content_hash", lambda *given: pytest.fail("hashed again"))
    packed_graphs(bundle, manifest, manifest.target)


def test_a_level_whose_folder_is_a_link_is_packed_elsewhere(bundle: Path, tmp_path: Path) -> None:
    manifest = write_bundle(bundle)
    (bundle / "levels").mkdir()
    names = [*manifest.files]
    for name in names:
        (bundle / name).rename(bundle / "levels" / name)
    (bundle / "link").symlink_to(bundle / "levels")
    level = replace(manifest.target, folder="link")
    listed = replace(manifest, files={f"link/{name}": entry for name, entry in manifest.files.items()})
    before = sorted((bundle / "levels").iterdir())
    assert packed_graphs(bundle, listed, level).parent == tmp_path / "user" / "packed"
    assert sorted((bundle / "levels").iterdir()) == before


def test_a_table_with_a_source_that_is_not_listed_is_refused(bundle: Path) -> None:
    manifest = write_bundle(bundle)
    replaced(bundle / "native.json", b'"model.onnx.data"', b'"model.onnx.other"')
    with pytest.raises(TableError, match=r"which its bundle does not list; export it again"):
        packed_graphs(bundle, manifest, manifest.target)


def test_other_weights_in_the_same_place_are_packed_again(bundle: Path) -> None:
    first = write_bundle(bundle)
    packed_graphs(bundle, first, first.target)
    second = write_bundle(bundle, seed=1)
    notes: list[str] = []
    packed_graphs(bundle, second, second.target, notify=notes.append)
    assert "is of other weights" in notes[0]


def read_only(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """No packed file can be begun in the folders (which a superuser's permissions would allow)."""

    def refuse(folder: Path, pattern: str) -> None:
        if folder in folders:
            raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(packing, "clear_abandoned", refuse)


def test_a_bundle_that_cannot_be_written_is_packed_into_the_users_folder(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_bundle(bundle)
    read_only(monkeypatch, bundle)
    place = packed_graphs(bundle, manifest, manifest.target)
    assert place.parent == bundle.parent / "user" / "packed"
    assert (place / "native.onnx").read_bytes() == b"graph"
    monkeypatch.setattr(packing, "_check_source", None)  # a second packing would fail
    assert packed_graphs(bundle, manifest, manifest.target) == place
    shutil.copytree(bundle, bundle.parent / "elsewhere")
    assert packed_graphs(bundle.parent / "elsewhere", manifest, manifest.target) == place


def test_nowhere_to_write_is_one_error_that_names_both_places(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_bundle(bundle)
    read_only(monkeypatch, bundle)
    (bundle.parent / "user").write_text("a file where the folder should be")
    with pytest.raises(PackingError) as caught:
        packed_graphs(bundle, manifest, manifest.target)
    first, second = str(caught.value).split("; and ")
    assert first.startswith(f"{bundle / 'native.data'} cannot be written (Read-only file system)")
    assert second.startswith(f"{bundle.parent / 'user'}")
    assert second.endswith("; set POCKETSPEC_CACHE to another folder")


def test_a_graph_that_is_not_copied_whole_is_not_left(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copy_some(source: Path, target: Path) -> None:
        target.write_bytes(b"gr")
        raise OSError(errno.ENOSPC, "No space left on device")

    manifest = write_bundle(bundle)
    read_only(monkeypatch, bundle)
    monkeypatch.setattr(shutil, "copyfile", copy_some)
    with pytest.raises(PackingError, match="No space left on device"):
        packed_graphs(bundle, manifest, manifest.target)
    assert [path for path in (bundle.parent / "user").rglob("*") if path.is_file()] == []


def test_graphs_for_another_layout_are_refused(bundle: Path) -> None:
    manifest = write_bundle(bundle)
    native = NativeForm({"fp32": "native.onnx"}, "native.json", "native.data", 0, layout=7)
    level = replace(manifest.target, native=native)
    with pytest.raises(OtherLayoutError, match="tiny is for layout version 7, this version reads 1; export it again"):
        packed_graphs(bundle, manifest, level)
