"""A pair of packed weights that is damaged, or was made for something else, is made again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from export.manifest import read_manifest
from runtime.kernels.weights import prepacked
from runtime.kernels.weights.content import DAMAGED
from runtime.kernels.weights.prepacked import place_of, prepacked_graph
from runtime.models.ort_model import OrtModel, open_session
from tests.runtime.kernels.weights.pairs import logits, pairs, zeroed
from tests.runtime.kernels.weights.weighty import MAX_ROWS, open_target, write_weighty_bundle


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
