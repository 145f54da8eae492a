"""Records: a finding is made once per key, a changed file is noticed, and a read-only bundle is no obstacle."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export.manifest import ManifestError, read_manifest
from runtime.bundle.device_cache import (
    NO_FOLDER,
    check_files,
    device_folder,
    device_key,
    forget,
    look_up,
    recall,
    user_folder,
)


def counted() -> tuple[list[int], Callable[[], int]]:
    calls: list[int] = []

    def find() -> int:
        calls.append(1)
        return len(calls)

    return calls, find


def test_a_finding_is_made_once_for_each_key(tmp_path: Path) -> None:
    calls, find = counted()
    assert [recall(tmp_path, "x", key, find) for key in (("a", 1), ("a", 1), ("b", 1), ("b", 1))] == [1, 1, 2, 2]
    assert len(calls) == 2


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"key": ["a"]}'])
def test_a_damaged_record_is_made_again(tmp_path: Path, damage: str) -> None:
    calls, find = counted()
    recall(tmp_path, "x", ["a"], find)
    (tmp_path / "x.json").write_text(damage)
    assert recall(tmp_path, "x", ["a"], find) == 2
    assert len(calls) == 2


def test_records_of_a_read_only_bundle_go_to_the_user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setenv("POCKETSPEC_CACHE", str(tmp_path / "cache"))
    folder = device_folder(tmp_path / "bundle")
    assert folder.parent == tmp_path / "cache"
    assert folder != device_folder(tmp_path / "other")


def test_a_record_that_cannot_be_written_costs_only_itself(tmp_path: Path) -> None:
    folder = tmp_path / ".device"
    folder.write_text("a file where the folder should be")
    calls, find = counted()
    assert [recall(folder, "x", 1, find), recall(folder, "x", 1, find)] == [1, 2]
    assert len(calls) == 2


def _raise(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("method", "error"), [("home", RuntimeError("no home")), ("lstat", PermissionError(errno.EACCES, "denied"))]
)
def test_a_user_without_a_home_of_their_own_has_no_records(
    monkeypatch: pytest.MonkeyPatch, method: str, error: Exception
) -> None:
    for name in ("POCKETSPEC_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, method, _raise(error))
    assert user_folder() == NO_FOLDER
    for _ in range(2):
        assert recall(NO_FOLDER, "record", 1, lambda: "made") == "made"
    assert look_up(NO_FOLDER, "record", 1) == (None, False)
    forget(NO_FOLDER, "record")


def test_a_changed_byte_is_noticed_after_a_good_first_open(random_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(random_bundle, tmp_path / "copy")
    manifest = read_manifest(bundle)
    check_files(bundle, manifest)
    graph = bundle / "drafters/near/model.onnx"
    data = bytearray(graph.read_bytes())
    data[-1] ^= 1
    graph.write_bytes(data)
    with pytest.raises(ManifestError, match=r"near/model\.onnx was changed: its sha256 is not the manifest's"):
        check_files(bundle, manifest)
    graph.unlink()
    with pytest.raises(ManifestError, match=r"near/model\.onnx is missing"):
        check_files(bundle, manifest)


def test_unchanged_files_are_not_hashed_again(random_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = read_manifest(random_bundle)
    check_files(random_bundle, manifest)
    monkeypatch.setattr(
        "runtime.bundle.device_cache.verify_files", lambda bundle, manifest: pytest.fail("hashed again")
    )
    check_files(random_bundle, manifest)


def test_the_device_key_is_stable() -> None:
    assert device_key() == device_key()
