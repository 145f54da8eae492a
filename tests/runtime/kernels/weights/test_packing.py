"""Packed files: their bytes, and what is left after a failure: nothing."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.kernels.weights import packing
from runtime.kernels.weights.disk import PackingError
from runtime.kernels.weights.packing import pack
from runtime.kernels.weights.packing_table import MatrixEntry, PackingTable, TableError, read_table
from tests.places import ROOT
from tests.runtime.kernels.weights.packable import VECTOR, make_sources, write_bundle
from tests.runtime.kernels.weights.unpacking import portable_rows, unpack_codes, unpack_scales, unpack_zero_points


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A folder for a bundle."""
    return tmp_path / "bundle"


def portable_parts(table: PackingTable, packed: bytes, matrix: MatrixEntry) -> list[np.ndarray]:
    """What the packed file holds of a matrix, in the portable order."""
    layout = matrix.layout

    def part(move: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return np.frombuffer(packed, dtype, int(np.prod(shape)), move.target).reshape(shape)

    scale_type = {"fp16": np.float16, "fp32": np.float32}[matrix.scale_type]
    rows = [
        unpack_codes(part(matrix.codes, layout.codes_shape, np.uint8), layout.bits),
        unpack_scales(part(matrix.scales, layout.scales_shape, scale_type)),
    ]
    if matrix.zero_points is not None:
        zeros = part(matrix.zero_points, layout.zero_points_shape, np.uint8)
        rows.append(unpack_zero_points(zeros, layout.bits))
    return [portable_rows(array, layout) for array in rows]


@pytest.mark.parametrize("slab_bytes", [1, 2 << 20])
def test_the_packed_file_holds_every_tensor(bundle: Path, monkeypatch: pytest.MonkeyPatch, slab_bytes: int) -> None:
    monkeypatch.setattr(packing, "_SLAB_BYTES", slab_bytes)
    write_bundle(bundle)
    told: list[int] = []
    packed = pack(bundle, "f" * 64, report=told.append).read_bytes()
    table, table_hash = read_table(bundle / "native.json")
    header = {"magic": packing.MAGIC, "layout": 1, "source": "f" * 64, "table": table_hash, "bytes": table.size}
    assert json.loads(packed[:4096]) == {**header, "content": hashlib.sha256(packed[4096:]).hexdigest()}
    assert len(packed) == table.size
    sources = make_sources()
    for matrix in table.matrices:
        assert matrix.codes.target % 4096 == matrix.scales.target % 4096 == 0
        for got, wanted in zip(portable_parts(table, packed, matrix), sources[matrix.name], strict=True):
            np.testing.assert_array_equal(got, wanted)
    (vector,) = table.vectors
    np.testing.assert_array_equal(np.frombuffer(packed, np.float32, 50, vector.move.target), VECTOR)
    assert 0 < sum(told) <= table.size


def test_rows_of_padding_weigh_nothing(bundle: Path) -> None:
    write_bundle(bundle)
    packed = pack(bundle, "").read_bytes()
    table, _ = read_table(bundle / "native.json")
    matrix = next(matrix for matrix in table.matrices if matrix.name == "eight")
    codes = np.frombuffer(packed, np.uint8, int(np.prod(matrix.layout.codes_shape)), matrix.codes.target)
    assert (unpack_codes(codes.reshape(matrix.layout.codes_shape), 8)[33:] == 128).all()
    scales = np.frombuffer(packed, np.float16, int(np.prod(matrix.layout.scales_shape)), matrix.scales.target)
    assert not scales.reshape(matrix.layout.scales_shape)[-1, :, 1:].any()


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_interruption_leaves_nothing(bundle: Path) -> None:
    write_bundle(bundle)
    before = sorted(bundle.iterdir())
    with pytest.raises(KeyboardInterrupt):
        pack(bundle, "", report=stop)
    assert sorted(bundle.iterdir()) == before


def test_an_interruption_keeps_the_file_that_was_there(bundle: Path) -> None:
    write_bundle(bundle)
    packed = pack(bundle, "first").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        pack(bundle, "second", report=stop)
    assert (bundle / "native.data").read_bytes() == packed


def test_what_another_process_has_just_made_is_left(bundle: Path) -> None:
    write_bundle(bundle)
    first = pack(bundle, "same").stat().st_ino
    assert pack(bundle, "same").stat().st_ino == first
    assert pack(bundle, "other").stat().st_ino != first


def test_a_damaged_file_is_not_taken_for_one_that_another_process_has_just_made(bundle: Path) -> None:
    write_bundle(bundle)
    path = pack(bundle, "same")
    wanted = path.read_bytes()
    path.write_bytes(wanted[:5000] + b"?" * 100 + wanted[5100:])
    assert pack(bundle, "same").read_bytes() == wanted


def test_a_link_with_the_name_of_what_is_written_is_not_followed(bundle: Path, tmp_path: Path) -> None:
    write_bundle(bundle)
    other = tmp_path / "other"
    other.write_bytes(b"of the user")
    (bundle / "native.data").symlink_to(other)
    assert not pack(bundle, "").is_symlink()
    assert other.read_bytes() == b"of the user"


def test_only_parts_of_ours_are_cleared(bundle: Path, tmp_path: Path) -> None:
    """Neither what has almost the name of a part, nor a folder without our mark, nor what a link leads to."""
    write_bundle(bundle)
    other = tmp_path / "other"
    other.mkdir()
    (other / ".pocketspec").touch()
    (bundle / "native.data.3-1.part").mkdir()
    (bundle / "native.data.4-1.part").symlink_to(other)
    (bundle / "native.data.mine.part").write_bytes(b"of the user")
    for path in bundle.glob("*.part"):
        os.utime(path, (0, 0), follow_symlinks=False)
    before = sorted(tmp_path.rglob("*"))
    pack(bundle, "")
    assert sorted({*tmp_path.rglob("*")} - {bundle / "native.data"}) == before


def test_a_full_disk_is_said_before_and_while_it_fills(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(bundle)
    before = sorted(bundle.iterdir())
    usage = shutil.disk_usage(bundle)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(
            PackingError, match=r"native.data needs [\d,]+ bytes .* \(1,000 bytes are free\); free space"
        ):
            pack(bundle, "")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PackingError, match="its disk is full"):
        pack(bundle, "")
    assert sorted(bundle.iterdir()) == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "model.onnx.data is missing; export the bundle again"),
        (lambda path: os.truncate(path, 100), "has 100 bytes, its packing table says .* export the bundle again"),
    ],
)
def test_a_damaged_source_is_refused(bundle: Path, damage: Callable[[Path], None], message: str) -> None:
    write_bundle(bundle)
    damage(bundle / "model.onnx.data")
    with pytest.raises(PackingError, match=message):
        pack(bundle, "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("{", "is no packing table"),
        ('{"layout": 1}', "is no packing table"),
        ('{"layout": 99}', "has layout version 99, this version packs 1"),
    ],
)
def test_a_damaged_table_is_refused(bundle: Path, text: str | None, message: str) -> None:
    write_bundle(bundle)
    path = bundle / "native.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(TableError, match=message):
        pack(bundle, "")


def test_parts_of_killed_processes_are_cleared(bundle: Path) -> None:
    write_bundle(bundle)
    abandoned, running = bundle / "native.data.1-1.part", bundle / "native.data.2-1.part"
    for part in (abandoned, running):
        part.write_bytes(b"half")
    os.utime(abandoned, (0, 0))
    pack(bundle, "")
    assert not abandoned.exists()
    assert running.exists()


def test_two_processes_that_pack_at_once_do_no_harm(bundle: Path) -> None:
    write_bundle(bundle)
    imports = "from pathlib import Path\nfrom runtime.kernels.weights.packing import pack\n"
    program = f"{imports}pack(Path({str(bundle)!r}), 'same')"
    running = [subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) for _ in range(2)]
    assert [process.wait(60) for process in running] == [0, 0]
    together = (bundle / "native.data").read_bytes()
    assert pack(bundle, "same").read_bytes() == together
    assert not list(bundle.glob("*.part"))
