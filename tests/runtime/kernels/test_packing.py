"""Packed files: their bytes, what is left after a failure (nothing), and which file is used, made again, or refused."""

from __future__ import annotations

import errno
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

from export.manifest import (
    FileEntry,
    Level,
    Manifest,
    NativeForm,
    Quantization,
    Shape,
    Source,
    Vocabulary,
    sha256_of,
)
from runtime.kernels import packing
from runtime.kernels.layout import MatrixLayout, portable_rows, unpack_codes, unpack_scales, unpack_zero_points
from runtime.kernels.packed import OtherLayoutError, packed_graphs
from runtime.kernels.packing import PackingError, pack
from runtime.kernels.table import Matrix, Table, TableBuilder, TableError, dump_table, read_table

MATRICES = {
    "plain": (MatrixLayout(37, 70, 4, 32), "fp16"),
    "gate_up": (MatrixLayout(20, 64, 4, 64, parts=2), "fp32"),
    "eight": (MatrixLayout(33, 130, 8, 128), "fp16"),
}
VECTOR = np.arange(50, dtype=np.float32)


def make_sources(seed: int = 0) -> dict[str, list[np.ndarray]]:
    """Portable codes, scales and (not for all) zero points by matrix."""
    rng = np.random.default_rng(seed)
    sources = {}
    for name, (layout, _) in MATRICES.items():
        codes = rng.integers(0, 256, layout.portable_codes_shape, np.uint8)
        scales = rng.normal(size=layout.portable_scales_shape).astype(np.float16).astype(np.float32)
        zeros = rng.integers(0, 128, layout.portable_zero_points_shape, np.uint8)
        if layout.bits == 4 and layout.blocks % 2:
            zeros[:, -1] &= 15  # the spare half of the last byte
        sources[name] = [codes, scales] if name == "plain" else [codes, scales, zeros]
    return sources


def write_bundle(folder: Path, seed: int = 0) -> Manifest:
    """A bundle of one level with nothing in its graphs."""
    folder.mkdir(exist_ok=True)
    builder, data = TableBuilder(), b""
    for name, arrays in make_sources(seed).items():
        places = []
        for array in arrays:
            places.append(len(data))
            data += array.tobytes()
        layout, scale_type = MATRICES[name]
        builder.matrix(name, layout, scale_type, places[0], places[1], places[2] if len(places) == 3 else None)
    builder.vector("norm", len(data), VECTOR.nbytes)
    data += VECTOR.tobytes()
    table = builder.finish("model.onnx.data", len(data))
    (folder / "model.onnx.data").write_bytes(data)
    (folder / "native.json").write_text(dump_table(table))
    (folder / "native.onnx").write_bytes(b"graph")
    paths = [folder / name for name in ("model.onnx.data", "native.json", "native.onnx")]
    files = {path.name: FileEntry(path.stat().st_size, sha256_of(path)) for path in paths}
    level = Level(
        name="tiny",
        role="target",
        folder=".",
        architecture="llama",
        source=Source("tiny"),
        shape=Shape(1, 64, 64, 4, 2, 16, 64, 64),
        vocabulary=Vocabulary(64, "", ()),
        quantization=Quantization("int4", 32),
        graphs={"fp32": "model.onnx"},
        weight_bytes=len(data),
        native=NativeForm({"fp32": "native.onnx"}, "native.json", "native.data", table.size, 1),
    )
    return Manifest("tiny", (level,), files)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for a bundle; the user's folder is beside it."""
    monkeypatch.setenv("POCKETSPEC_CACHE", str(tmp_path / "user"))
    return tmp_path / "bundle"


def portable_parts(table: Table, packed: bytes, matrix: Matrix) -> list[np.ndarray]:
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
    assert json.loads(packed[:4096]) == header
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


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: os.truncate(path, 5000), "has 5,000 bytes instead of"),
        (lambda path: os.truncate(path, 50), "is no packed file"),
        (lambda path: path.write_bytes(b"\xff" * 9000), "is no packed file"),
        (lambda path: replaced(path, b'"layout": 1', b'"layout": 9'), "has layout version 9, this version reads 1"),
        (lambda path: replaced(path, b'"source": "', b'"source": "x'), "is of other weights"),
        (lambda path: replaced(path, b'"table": "', b'"table": "x'), "is for other graphs of these weights"),
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


def test_other_weights_in_the_same_place_are_packed_again(bundle: Path) -> None:
    first = write_bundle(bundle)
    packed_graphs(bundle, first, first.target)
    second = write_bundle(bundle, seed=1)
    notes: list[str] = []
    packed_graphs(bundle, second, second.target, notify=notes.append)
    assert "is of other weights" in notes[0]


def read_only(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """No packed file can be begun in the folders (which a superuser's permissions would allow)."""

    def refuse(path: Path) -> None:
        if path.parent in folders:
            raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(packing, "_clear_abandoned", refuse)


def test_a_bundle_that_cannot_be_written_is_packed_into_the_users_folder(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_bundle(bundle)
    read_only(monkeypatch, bundle)
    place = packed_graphs(bundle, manifest, manifest.target)
    assert place.parent == bundle.parent / "user" / "packed"
    assert (place / "native.onnx").read_bytes() == b"graph"
    monkeypatch.setattr(packing, "_check_source", stop)  # a second packing would be interrupted
    assert packed_graphs(bundle, manifest, manifest.target) == place
    shutil.copytree(bundle, bundle.parent / "elsewhere")
    assert packed_graphs(bundle.parent / "elsewhere", manifest, manifest.target) == place


def test_nowhere_to_write_is_one_error(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_bundle(bundle)
    read_only(monkeypatch, bundle)
    (bundle.parent / "user").write_text("a file where the folder should be")
    with pytest.raises(PackingError, match=r"bundle/native.data cannot be written \(Read-only file system\)"):
        packed_graphs(bundle, manifest, manifest.target)


def test_graphs_for_another_layout_are_refused(bundle: Path) -> None:
    manifest = write_bundle(bundle)
    native = NativeForm({"fp32": "native.onnx"}, "native.json", "native.data", 0, layout=7)
    level = Level(**{**vars(manifest.target), "native": native})
    with pytest.raises(OtherLayoutError, match="tiny is for layout version 7, this version reads 1; export it again"):
        packed_graphs(bundle, manifest, level)


def test_two_processes_that_pack_at_once_do_no_harm(bundle: Path) -> None:
    write_bundle(bundle)
    program = f"from pathlib import Path\nfrom runtime.kernels.packing import pack\npack(Path({str(bundle)!r}), 'same')"
    root = Path(packing.__file__).parents[2]
    running = [subprocess.Popen([sys.executable, "-c", program], cwd=root) for _ in range(2)]
    assert [process.wait(60) for process in running] == [0, 0]
    together = (bundle / "native.data").read_bytes()
    assert pack(bundle, "same").read_bytes() == together
    assert not list(bundle.glob("*.part"))
