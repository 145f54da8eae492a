"""Reading a checkpoint: any rows of any tensor, and one clear line for every way a folder can be wrong."""

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from export.manifest import PocketspecError
from export.sources.checkpoint import INDEX, Checkpoint, CheckpointError

TENSORS = {
    "matrix": torch.arange(24, dtype=torch.float32).reshape(6, 4) / 3,
    "half": (torch.arange(12, dtype=torch.float32).reshape(4, 3) / 7).to(torch.float16),
    "brain": torch.tensor([[1.0, -2.5, 3.0e38], [0.1, -0.0, 1e-40]]).to(torch.bfloat16),
    "vector": torch.tensor([1.0, 2.0]),
    "scalar": torch.tensor(3.0),
}


def write_raw(path: Path, header: object, data: bytes = b"") -> None:
    """A safetensors file with exactly this header, sound or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_sharded(folder: Path) -> None:
    save_file({"matrix": TENSORS["matrix"]}, folder / "a.safetensors")
    save_file({"half": TENSORS["half"], "brain": TENSORS["brain"]}, folder / "b.safetensors")
    weight_map = {"matrix": "a.safetensors", "half": "b.safetensors", "brain": "b.safetensors"}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.fixture
def single(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


def test_every_type_is_read_as_float32_exactly(single: Path) -> None:
    checkpoint = Checkpoint(single)
    assert set(checkpoint.names()) == set(TENSORS)
    for name, tensor in TENSORS.items():
        got = checkpoint.read(name)
        assert got.dtype == np.float32
        assert got.shape == checkpoint.shape(name) == tuple(tensor.shape)
        np.testing.assert_array_equal(got, tensor.to(torch.float32).numpy())
    assert checkpoint.nbytes == sum(tensor.nbytes for tensor in TENSORS.values())
    assert checkpoint.config_path == single / "config.json"


@pytest.mark.parametrize("name", ["matrix", "half", "vector"])
@pytest.mark.parametrize(("first", "last"), [(0, None), (1, 2), (1, None), (0, 1), (2, 2)])
def test_a_run_of_rows_equals_that_part_of_the_whole(single: Path, name: str, first: int, last: int | None) -> None:
    checkpoint = Checkpoint(single)
    np.testing.assert_array_equal(checkpoint.read(name, first, last), checkpoint.read(name)[first:last])


def test_only_the_asked_rows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"large": torch.ones(1000, 100)}, tmp_path / "model.safetensors")
    checkpoint = Checkpoint(tmp_path)
    allocated: list[int] = []
    empty = np.empty
    monkeypatch.setattr(np, "empty", lambda count, dtype: (allocated.append(count), empty(count, dtype))[1])
    checkpoint.read("large", 10, 12)
    assert allocated == [2 * 100 * 4]


def test_shards_are_found_through_the_index(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    checkpoint = Checkpoint(tmp_path)
    for name in ("matrix", "half", "brain"):
        np.testing.assert_array_equal(checkpoint.read(name), TENSORS[name].to(torch.float32).numpy())


def test_reading_after_close_opens_the_file_again(single: Path) -> None:
    checkpoint = Checkpoint(single)
    checkpoint.close()
    assert checkpoint.read("vector").tolist() == [1.0, 2.0]


def empty_folder(folder: Path) -> None:
    pass


def only_pickled(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02")


def several_without_index(folder: Path) -> None:
    for name in ("a", "b"):
        save_file({"x": TENSORS["vector"]}, folder / f"{name}.safetensors")


def broken_index(folder: Path) -> None:
    (folder / INDEX).write_text('{"weight_map": [1]}')


def missing_shard(folder: Path) -> None:
    write_sharded(folder)
    (folder / "b.safetensors").unlink()


def truncated_data(folder: Path) -> None:
    save_file({"x": torch.ones(64)}, folder / "model.safetensors")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def truncated_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 500) + b"{" * 20)


def empty_file(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def absurd_length(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"<!DOCTYPE html><html>")


def header_not_json(folder: Path) -> None:
    write_raw(folder / "model.safetensors", b"\xff\xfe{nonsense")


def header_not_an_object(folder: Path) -> None:
    write_raw(folder / "model.safetensors", [1, 2])


def malformed_entry(folder: Path) -> None:
    write_raw(folder / "model.safetensors", {"x": {"dtype": "F32", "shape": [2]}})


def size_against_shape(folder: Path) -> None:
    entry = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 12]}
    write_raw(folder / "model.safetensors", {"x": entry}, bytes(12))


REFUSALS: list[tuple[Callable[[Path], None], str]] = [
    (empty_folder, "no *.safetensors in {folder}; give the folder of a Hugging Face checkpoint"),
    (only_pickled, "{folder} has only pickled weights (pytorch_model.bin), which can run code and are not loaded; "),
    (several_without_index, "{folder} has 2 safetensors files but neither model.safetensors nor " + INDEX),
    (broken_index, "{folder}/" + INDEX + " is not a safetensors index; download the checkpoint again"),
    (missing_shard, "shard {folder}/b.safetensors is missing (2 of 2 in " + INDEX + "); download"),
    (truncated_data, "{folder}/model.safetensors is truncated: 318 bytes, tensor 'x' ends at 328; download"),
    (truncated_header, "{folder}/model.safetensors is truncated: 28 bytes, its header ends at 508; download"),
    (empty_file, "{folder}/model.safetensors is truncated: 0 bytes, the header's length alone takes 8"),
    (absurd_length, "{folder}/model.safetensors is not safetensors: a header of "),
    (header_not_json, "{folder}/model.safetensors is not safetensors: its header is not JSON; download"),
    (header_not_an_object, "{folder}/model.safetensors is not safetensors: its header is not a JSON object"),
    (malformed_entry, "{folder}/model.safetensors: the header's entry for 'x' is malformed; download"),
    (size_against_shape, "tensor 'x' has shape [2, 2] of F32 (16 bytes) but 12 bytes in the file; download"),
]


@pytest.mark.parametrize(("damage", "text"), REFUSALS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_damaged_folder_is_refused(tmp_path: Path, damage: Callable[[Path], None], text: str) -> None:
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=re.escape(text.format(folder=tmp_path))) as caught:
        Checkpoint(tmp_path)
    assert isinstance(caught.value, PocketspecError)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*absent: no such folder; give a folder"):
        Checkpoint(tmp_path / "absent")


def test_a_missing_tensor_is_named(single: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tensor 'other' in .* \(5 tensors\); is this the right checkpoint"):
        Checkpoint(single).shape("other")


def test_a_quantized_tensor_is_refused_when_read(tmp_path: Path) -> None:
    save_file({"codes": torch.ones(4, dtype=torch.int8)}, tmp_path / "model.safetensors")
    checkpoint = Checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"'codes' in .* has type I8, expected one of F64, F32, F16, BF16; use a"):
        checkpoint.read("codes")


def test_a_file_that_shrinks_while_it_is_open_is_noticed(single: Path) -> None:
    checkpoint = Checkpoint(single)
    (single / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"ends at byte .* inside a tensor"):
        checkpoint.read("matrix")
