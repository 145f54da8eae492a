"""ONNX Runtime's packed weights in a file: same bits, no copies, shared by processes, made again where it must be."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from export.manifest import read_manifest
from memory.device import Device
from memory.plan import OverBudgetError
from runtime.bundle.foreign import read_bundle
from runtime.kernels.backends import PORTABLE, Kernels
from runtime.kernels.selection import Chooser
from runtime.kernels.weights import prepacked, prepacking
from runtime.kernels.weights.content import DAMAGED
from runtime.kernels.weights.disk import PackingError
from runtime.kernels.weights.packed import Advance, no_progress
from runtime.kernels.weights.prepacked import place_of, prepacked_graph
from runtime.models import prepacker
from runtime.models.ort_model import OrtModel, open_session
from tests.runtime.kernels.weights.weighty import MAX_ROWS, found_by, open_target, started, write_weighty_bundle

WRITE_ISOLATED = prepacking.write_isolated


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small int4 bundle with its weights beside the graph; the user's folder is beside it.

    Pairs are written in this process, which saves the start of another one.
    """
    monkeypatch.setenv("POCKETSPEC_CACHE", str(tmp_path / "user"))
    monkeypatch.setattr(prepacking, "write_isolated", write_here)
    return write_weighty_bundle(tmp_path / "bundle")


def write_here(pair: prepacking.Pair, part: Path) -> str | None:
    shape = pair.level.shape
    return prepacker.write_pair(pair.graph, part, (shape.kv_heads, shape.head_size))


def pairs(folder: Path) -> list[Path]:
    """The folders of pairs below ``folder``, and parts of them."""
    return sorted(folder.glob("**/prepacked/**/model.onnx/*/"))


def logits(model: OrtModel, width: int) -> np.ndarray:
    rows = np.random.default_rng(1).integers(0, model.vocab_size, 2 * MAX_ROWS).tolist()
    model.cache.rollback(0)
    return np.concatenate([model.forward(rows[i : i + width]).logits.copy() for i in range(0, len(rows), width)])


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


def other_runtime(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "__version__", "0.9")


def other_processor(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepacked, "processor_features", lambda: frozenset({"abacus"}))


def other_format(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepacked, "FORMAT", -1)


def other_weights(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_weighty_bundle(bundle, seed=1)


def cut_off(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.truncate(pairs(bundle)[0] / "model.onnx.data", 500)


def damaged_graph(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = pairs(bundle)[0] / "model.onnx"
    graph.write_bytes(graph.read_bytes()[::-1])


def damaged_data(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zeroed(pairs(bundle)[0] / "model.onnx.data")


def zeroed(path: Path) -> None:
    """A page in the middle of a file is lost."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(500))


def other_names(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pairs(bundle)[0] / "prepacked.json"
    path.write_text(path.read_text().replace('"model.onnx.data"', '"../../../model.onnx.data"'))


def a_pair_of_links(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder,) = pairs(bundle)
    (folder / "model.onnx").rename(bundle / "elsewhere")
    (folder / "model.onnx").symlink_to(bundle / "elsewhere")


def interrupted(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pairs(bundle)[0] / "prepacked.json").unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_runtime, "was made by another version of ONNX Runtime"),
        (other_processor, "was made for another processor"),
        (other_format, "has another format"),
        (other_weights, "is of other weights"),
        (cut_off, "has 500 bytes in model.onnx.data instead of "),
        (damaged_graph, "has a damaged model.onnx"),
        (damaged_data, "is damaged, for its content is not what was packed"),
        (other_names, "is incomplete"),
        (a_pair_of_links, "consists of links"),
        (interrupted, "is incomplete"),
    ],
)
def test_a_pair_that_is_not_current_is_made_again(
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path, pytest.MonkeyPatch], None],
    message: str,
) -> None:
    open_target(bundle)
    change(bundle, monkeypatch)
    notes: list[str] = []
    model = open_target(bundle, notify=notes.append)
    (note,) = notes
    assert f"{message}" in note
    assert note.endswith(": the weights are packed again")
    assert len(pairs(bundle)) == 1
    again: list[str] = []
    copied = OrtModel(open_session(bundle / "model.onnx", 1), 4 * MAX_ROWS, MAX_ROWS, MAX_ROWS)
    assert np.array_equal(logits(open_target(bundle, notify=again.append), 4), logits(copied, 4))
    assert np.array_equal(logits(model, 4), logits(copied, 4))
    assert again == []


def test_damage_that_changes_neither_size_nor_time_is_found_on_demand(bundle: Path) -> None:
    open_target(bundle)
    (folder,) = pairs(bundle)
    path = folder / "model.onnx.data"
    wanted, status = path.read_bytes(), path.stat()
    zeroed(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    manifest = read_manifest(bundle)
    place = place_of(bundle, manifest, manifest.target, "model.onnx")
    assert place.find() == folder
    assert list(place.damaged()) == [path]
    notes: list[str] = []
    prepacked_graph(place, notify=notes.append)
    assert path.read_bytes() == wanted
    assert notes == [f"{folder} {DAMAGED}: the weights are packed again"]


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


def read_only(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """Nothing can be begun below the folders (which a superuser's permissions would allow)."""

    def refuse(folder: Path, pattern: str) -> None:
        if any(folder.is_relative_to(place) for place in folders):
            raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(prepacking, "clear_abandoned", refuse)


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


def full_disk(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    usage = shutil.disk_usage(bundle)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    return "its disk is full (1,000 bytes are free); free space, or set POCKETSPEC_CACHE to a folder on another disk"


def no_writable_place(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    read_only(monkeypatch, bundle.parent)
    return "cannot be written (Read-only file system)"


def other_results(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    run = prepacker._results
    results = iter([0.0, 1e-6] * 2)
    monkeypatch.setattr(prepacker, "_results", lambda *given: [array + next(results) for array in run(*given)[:1]])
    return f"packs the weights of {bundle / 'model.onnx'} so that its results change"


def no_data_written(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """As where a disk fills up behind ONNX Runtime's back."""
    run = prepacker._results

    def cut(graph: Path, options: ort.SessionOptions, kv_shape: tuple[int, int]) -> Any:
        results = run(graph, options, kv_shape)
        if graph == bundle / "model.onnx":
            (part,) = graph.parent.glob("**/*.part/model.onnx.data")
            os.truncate(part, 100)
        return results

    read_only(monkeypatch, bundle.parent / "user")
    monkeypatch.setattr(prepacker, "_results", cut)
    return f"cannot pack the weights of {bundle / 'model.onnx'}: "


def no_memory(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(prepacking, "read_device", lambda: Device(8 << 30, 1000))
    return "of memory, once, and 1,000 are available now; close other programs"


def killed_process(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    ended = subprocess.CompletedProcess[str]([], -9, "", "")
    monkeypatch.setattr(prepacking, "write_isolated", WRITE_ISOLATED)
    monkeypatch.setattr(prepacking, "run_module", lambda *arguments: ended)
    return f"did not pack the weights of {bundle / 'model.onnx'} in a process of its own: it crashed with signal 9"


def no_process(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(prepacking, "write_isolated", WRITE_ISOLATED)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    return "which cannot be started: "


def missing_graph(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which the other process says."""
    missing = bundle / "missing.onnx"
    monkeypatch.setattr(
        prepacking, "write_isolated", lambda pair, part: WRITE_ISOLATED(replace(pair, graph=missing), part)
    )
    return f"cannot pack the weights of {missing}: "


FAULTS = [
    full_disk,
    no_writable_place,
    other_results,
    no_data_written,
    no_memory,
    killed_process,
    no_process,
    missing_graph,
]


@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_cannot_be_packed_are_copied_and_one_line_says_why(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[Path, pytest.MonkeyPatch], str]
) -> None:
    reason = fault(bundle, monkeypatch)
    notes: list[str] = []
    model = open_target(bundle, notify=notes.append)
    assert model.kernels.residence == "copied"
    assert np.isfinite(logits(model, 4)).all()
    (note,) = notes
    assert note.startswith("the weights of weighty are copied into memory: ")
    assert reason in note
    assert "\n" not in note
    assert pairs(bundle.parent) == []


def test_who_has_no_room_for_copies_knows_why_they_are_made(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = no_memory(bundle, monkeypatch)
    manifest, notes = read_manifest(bundle), list[str]()

    def open_in_small_plan(kernels: Kernels) -> None:
        if kernels.residence == "copied":
            raise OverBudgetError("no room", 1)
        kernels.graph(bundle, manifest.target, "fp32")

    with pytest.raises(OverBudgetError):
        Chooser("portable", notes.append).open(bundle, manifest, manifest.target, open_in_small_plan)
    (note,) = notes
    assert reason in note


def test_what_failed_is_expected_to_fail_again(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = read_manifest(bundle)
    chooser = Chooser("portable")
    assert chooser.expected_residence(manifest, manifest.target) == "prepacked"
    no_writable_place(bundle, monkeypatch)
    for _ in range(2):
        found = chooser.open(
            bundle,
            manifest,
            manifest.target,
            lambda kernels: (kernels.graph(bundle, manifest.target, "fp32"), kernels)[1],
        )
        assert found.residence == chooser.expected_residence(manifest, manifest.target) == "copied"
        monkeypatch.undo()


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


def places(tensors: list[tuple[int, int]]) -> bytes:
    """A graph file with tensors in a data file, by offset and size."""
    model = onnx.ModelProto(ir_version=10, producer_name="x" * 200)
    for offset, size in tensors:
        tensor = model.graph.initializer.add(name=f"at {offset}", data_location=onnx.TensorProto.EXTERNAL)
        for key, value in (("location", "data"), ("offset", str(offset)), ("length", str(size))):
            tensor.external_data.add(key=key, value=value)
    return bytes(model.SerializeToString())


def places_in(graph: Path) -> list[tuple[int, int]]:
    tensors = onnx.load(graph, load_external_data=False).graph.initializer
    entries = [{entry.key: entry.value for entry in tensor.external_data} for tensor in tensors]
    return [(int(values["offset"]), int(values["length"])) for values in entries]


@pytest.mark.parametrize("first", [0, 2000])
def test_a_last_tensor_that_is_there_twice_is_read_once(tmp_path: Path, first: int) -> None:
    graph, data = tmp_path / "graph", tmp_path / "data"
    values = np.random.default_rng(0).bytes(4000)
    data.write_bytes(values + values[first : first + 1000])
    tensors = [(0, 1000), (1000, 1000), (2000, 1000), (3000, 1000)]
    graph.write_bytes(places([*tensors, (4000, 1000)]))
    prepacker.read_once(graph, data)
    assert data.read_bytes() == values
    assert places_in(graph) == [*tensors, (first, 1000)]


@pytest.mark.parametrize("size", [1000, 999])
def test_other_last_tensors_stay(tmp_path: Path, size: int) -> None:
    """One that is there once, and one behind which something else lies."""
    graph, data = tmp_path / "graph", tmp_path / "data"
    values = np.random.default_rng(0).bytes(1000) * 2 if size < 1000 else np.random.default_rng(0).bytes(2000)
    data.write_bytes(values)
    graph.write_bytes(places([(0, size), (1000, size)]))
    prepacker.read_once(graph, data)
    assert (data.read_bytes(), graph.read_bytes()) == (values, places([(0, size), (1000, size)]))


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
