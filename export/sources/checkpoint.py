"""Tensors of a Hugging Face checkpoint folder, read a few rows at a time.

A safetensors file is a length (8 bytes, little endian), a JSON header of that length, and the tensors' bytes. So one
seek and one read give any run of rows. Files are read, not mapped, because pages of a mapping would count as memory of
the export. Pickled weights (``.bin``, ``.pt``) can run code when they are loaded, so they are never opened.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from export.manifest import PocketspecError
from export.sources import mxfp4
from export.sources.tensor_source import FloatArray
from export.untrusted import parse_json, read_text

INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_STORED_BYTES = {**_ITEM_BYTES, "U8": 1}
_NUMPY_TYPES: dict[str, type[np.floating[Any]]] = {"F64": np.float64, "F16": np.float16}
_MOST_INTEGERS = 1 << 26  # as many as there may be tokens
_LARGEST_HEADER = 100_000_000  # the limit of the safetensors library
_REMEDY = "download the checkpoint again"


class CheckpointError(PocketspecError, ValueError):
    """A checkpoint folder that is missing, damaged, or lacks what a graph needs."""


@dataclass(frozen=True)
class _Entry:
    """Where one tensor lies (file and first byte), its type and its shape."""

    path: Path
    position: int
    dtype: str
    shape: tuple[int, ...]


class Checkpoint:
    """A ``TensorSource`` over the safetensors of ``folder``: one file, or shards with their index.

    The files are those that transformers reads: the file or index ``chosen`` (``transformers_weights`` of a
    configuration), else ``model.safetensors``, else those in the index; and those ``beside``. Every header is read and
    checked against the size of its file at once; tensors are read when they are needed. Reading is thread-safe.
    """

    READABLE = frozenset(_ITEM_BYTES)

    def __init__(self, folder: Path, chosen: str | None = None, beside: Sequence[str] = ()) -> None:
        if not folder.is_dir():
            raise CheckpointError(f"no checkpoint at {folder}: no such folder; give a folder or a Hugging Face id")
        self.folder = folder
        self.config_path = folder / "config.json"
        self._entries: dict[str, _Entry] = {}
        self._stacks: dict[str, Sequence[Sequence[str]]] = {}
        self._packed: dict[str, tuple[str, str]] = {}
        self._files: dict[Path, BinaryIO] = {}
        self._lock = threading.Lock()
        self._close = weakref.finalize(self, _close_all, self._files)
        self._expected: dict[str, Path] = {}
        shards = _shards(folder, chosen) | {folder / name: [] for name in beside}
        for path, expected in sorted(shards.items()):
            self._add(path)
            self._expected |= dict.fromkeys(expected, path)
        self._find_packed()

    def names(self) -> Collection[str]:
        """Every tensor there is; those of a stack are that one, and so are the two of MXFP4."""
        parts = {name for parts in self._stacks.values() for part in parts for name in part}
        parts.update(name for pair in self._packed.values() for name in pair)
        return [*(name for name in self._entries if name not in parts), *self._stacks, *self._packed]

    def stack(self, name: str, parts: Sequence[Sequence[str]]) -> None:
        """Makes one tensor ``name`` ``[experts, rows, columns]`` of matrices of the same shape for every expert.

        ``parts[i][j]`` is the matrix whose rows are part i of those of expert j. CheckpointError if shapes differ.
        """
        for part in parts:
            for other in part:
                one, wanted = self._entry(other).shape, self._entry(part[0]).shape
                if one != wanted or len(one) != 2:
                    raise CheckpointError(
                        f"tensor {other!r} in {self.folder} has shape {list(one)}, {part[0]!r} {list(wanted)}: matrices"
                        f" of experts have one shape; {_REMEDY}"
                    )
        if len({self._entry(part[0]).shape[1] for part in parts}) > 1:
            raise CheckpointError(f"the matrices of {name!r} in {self.folder} have rows of several lengths; {_REMEDY}")
        self._stacks[name] = parts

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor; CheckpointError if there is none of that name."""
        if (parts := self._stacks.get(name)) is not None:
            shapes = [self._entry(part[0]).shape for part in parts]
            return len(parts[0]), sum(shape[0] for shape in shapes), shapes[0][1]
        if (pair := self._packed.get(name)) is not None:
            return mxfp4.unpacked_shape(self._entry(pair[0]).shape)
        return self._entry(name).shape

    def read(self, name: str, first: int = 0, last: int | None = None) -> FloatArray:
        """Rows ``first`` to ``last`` (exclusive, None: all) of a tensor, as float32 of shape ``[rows, ...]``."""
        if (parts := self._stacks.get(name)) is not None:
            experts = zip(*(part[first:last] for part in parts), strict=True)
            return np.stack([np.concatenate([self.read(matrix) for matrix in expert]) for expert in experts])
        if (pair := self._packed.get(name)) is not None:
            return mxfp4.unpack(*(self._rows(self._entry(part), first, last) for part in pair))
        entry = self._entry(name)
        if entry.dtype not in _ITEM_BYTES:
            raise CheckpointError(
                f"tensor {name!r} in {entry.path} has type {entry.dtype}, expected one of {', '.join(_ITEM_BYTES)}; "
                "use a checkpoint that is not quantized"
            )
        stored = self._rows(entry, first, last)
        return _as_float32(stored.reshape(-1), entry.dtype).reshape(stored.shape[:-1] if entry.shape else ())

    def read_integers(self, name: str) -> npt.NDArray[np.int64]:
        """A whole tensor of integers; CheckpointError if it has none."""
        entry = self._entry(name)
        dtype = {"I64": np.int64, "I32": np.int32}.get(entry.dtype)
        if dtype is None or math.prod(entry.shape) > _MOST_INTEGERS:
            raise CheckpointError(
                f"tensor {name!r} in {entry.path} is {entry.dtype} {list(entry.shape)}, expected I64 or I32 of at most"
                f" {_MOST_INTEGERS:,} numbers"
            )
        data = self._read_bytes(entry.path, entry.position, math.prod(entry.shape) * np.dtype(dtype).itemsize)
        return data.view(np.dtype(dtype).newbyteorder("<")).astype(np.int64).reshape(entry.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, as they are stored."""
        return sum(math.prod(e.shape) * _ITEM_BYTES.get(e.dtype, 1) for e in self._entries.values())

    @property
    def dtypes(self) -> frozenset[str]:
        """The types of all tensors, by their names in safetensors."""
        return frozenset(entry.dtype for entry in self._entries.values())

    def expected_in(self, name: str) -> Path | None:
        """The file that holds a tensor according to the index; after an interrupted download it may lack it."""
        return self._expected.get(name)

    def close(self) -> None:
        """Closes the files; reading opens them again."""
        _close_all(self._files)

    def _find_packed(self) -> None:
        """Makes one tensor of the two that are a matrix in MXFP4."""
        for blocks, entry in list(self._entries.items()):
            if not blocks.endswith(mxfp4.BLOCKS) or entry.dtype != "U8":
                continue
            name = blocks.removesuffix(mxfp4.BLOCKS)
            scales = self._entry(f"{name}{mxfp4.SCALES}")
            if scales.dtype != "U8" or not mxfp4.fits(entry.shape, scales.shape):
                raise CheckpointError(
                    f"{blocks!r} {list(entry.shape)} and its scales, {scales.dtype} {list(scales.shape)}, in"
                    f" {self.folder} are no matrices in MXFP4; {_REMEDY}"
                )
            self._packed[name] = (blocks, f"{name}{mxfp4.SCALES}")

    def _rows(self, entry: _Entry, first: int, last: int | None) -> npt.NDArray[np.uint8]:
        """Rows of a tensor as they are stored, uint8 ``[rows, ..., bytes of an element]``."""
        rows = range(entry.shape[0] if entry.shape else 1)[first:last]
        shape = (len(rows), *entry.shape[1:], _STORED_BYTES[entry.dtype])
        row_bytes = math.prod(shape[1:])
        data = self._read_bytes(entry.path, entry.position + rows.start * row_bytes, len(rows) * row_bytes)
        return data.reshape(shape)

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            raise CheckpointError(
                f"no tensor {name!r} in {self.folder} ({len(self._entries)} tensors); is this the right checkpoint?"
            )
        return self._entries[name]

    def _read_bytes(self, path: Path, position: int, count: int) -> npt.NDArray[np.uint8]:
        data = np.empty(count, np.uint8)
        view, done = data.data, 0
        with self._lock:
            if path not in self._files:
                self._files[path] = path.open("rb", buffering=0)
            file = self._files[path]
            file.seek(position)
            while done < count:  # one call reads at most 2 GiB
                got = file.readinto(view[done:])  # type: ignore[attr-defined]
                if not got:
                    raise CheckpointError(f"{path} ends at byte {position + done} inside a tensor; {_REMEDY}")
                done += got
        return data

    def _add(self, path: Path) -> None:
        """Reads the header of ``path``."""
        size = path.stat().st_size
        header, start = self._header(path, size)
        for name, fields in header.items():
            if name == "__metadata__":
                continue
            entry, end = _parse_entry(path, name, fields, start)
            if end > size:
                raise CheckpointError(f"{path} is truncated: {size} bytes, tensor {name!r} ends at {end}; {_REMEDY}")
            self._entries[name] = entry

    def _header(self, path: Path, size: int) -> tuple[dict[str, Any], int]:
        """The parsed header of a file of ``size`` bytes and the position of the first tensor."""
        if size < 8:
            raise CheckpointError(f"{path} is truncated: {size} bytes, the header's length alone takes 8; {_REMEDY}")
        length = int.from_bytes(self._read_bytes(path, 0, 8).tobytes(), "little")
        if length > _LARGEST_HEADER:
            raise CheckpointError(f"{path} is not safetensors: a header of {length} bytes is impossible; {_REMEDY}")
        if 8 + length > size:
            raise CheckpointError(f"{path} is truncated: {size} bytes, its header ends at {8 + length}; {_REMEDY}")
        try:
            header = parse_json(self._read_bytes(path, 8, length).tobytes())
        except ValueError:
            raise CheckpointError(f"{path} is not safetensors: its header is not JSON; {_REMEDY}") from None
        if not isinstance(header, dict):
            raise CheckpointError(f"{path} is not safetensors: its header is not a JSON object; {_REMEDY}")
        return header, 8 + length


def _parse_entry(path: Path, name: str, fields: Any, start: int) -> tuple[_Entry, int]:
    """The entry of one tensor and the position after its last byte."""
    try:
        dtype, shape = str(fields["dtype"]), tuple(int(n) for n in fields["shape"])
        begin, end = (int(n) for n in fields["data_offsets"])
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{path}: the header's entry for {name!r} is malformed; {_REMEDY}") from None
    size = math.prod(shape) * _STORED_BYTES.get(dtype, 0)
    if min((begin, *shape)) < 0 or end < begin or (size != end - begin and dtype in _STORED_BYTES):
        raise CheckpointError(
            f"{path}: tensor {name!r} has shape {list(shape)} of {dtype} ({size} bytes) "
            f"but {end - begin} bytes in the file; {_REMEDY}"
        )
    return _Entry(path, start + begin, dtype, shape), start + end


def _shards(folder: Path, chosen: str | None) -> dict[Path, list[str]]:
    """The safetensors files of a folder, each with the tensors that an index expects in it."""
    name = chosen or (_SINGLE if (folder / _SINGLE).is_file() else INDEX)
    index = folder / Path(name).name
    if chosen is not None and not (index.is_file() and name.endswith((".safetensors", ".safetensors.index.json"))):
        raise CheckpointError(
            f"config.json of {folder} names {name!r} as its weights (transformers_weights), which is no safetensors"
            f" file there; {_REMEDY}"
        )
    if name.endswith(".safetensors"):
        return {index: []}
    if not index.is_file():
        return {_single_file(folder): []}
    try:
        weight_map = parse_json(read_text(index, _LARGEST_HEADER))["weight_map"]
        shards: dict[Path, list[str]] = {}
        for tensor, file in weight_map.items():
            shards.setdefault(folder / Path(file).name, []).append(tensor)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{index} is not a safetensors index; {_REMEDY}") from None
    for number, path in enumerate(shards, start=1):
        if not path.is_file():
            raise CheckpointError(f"shard {path} is missing ({number} of {len(shards)} in {index.name}); {_REMEDY}")
    return shards


def _single_file(folder: Path) -> Path:
    """The only safetensors file of a folder that has neither of the usual names."""
    files = sorted(folder.glob("*.safetensors"))
    if adapters := [path for path in files if path.name.startswith("adapter_")]:
        raise CheckpointError(
            f"{folder} has an adapter ({adapters[0].name}) and no weights of a model; merge the adapter into its base"
            " model (peft: merge_and_unload) and save that"
        )
    if len(files) == 1:
        return files[0]
    if files:
        raise CheckpointError(
            f"{folder} has {len(files)} safetensors files but neither {_SINGLE} nor {INDEX}; {_REMEDY}"
        )
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickled:
        raise CheckpointError(
            f"{folder} has only pickled weights ({pickled[0]}), which can run code and are not loaded; "
            "convert them to safetensors with save_pretrained, or choose a revision that has them"
        )
    raise CheckpointError(f"no *.safetensors in {folder}; give the folder of a Hugging Face checkpoint")


def _as_float32(data: npt.NDArray[np.uint8], dtype: str) -> FloatArray:
    if dtype == "F32":
        return data.view(np.float32)
    if dtype in _NUMPY_TYPES:
        with np.errstate(over="ignore"):  # values beyond float32 become infinite, which ``writer`` refuses by name
            return data.view(_NUMPY_TYPES[dtype]).astype(np.float32)
    # bfloat16 is the upper half of a float32
    wide = data.view(np.uint16).astype(np.uint32)
    np.left_shift(wide, 16, out=wide)
    return wide.view(np.float32)


def _close_all(files: dict[Path, BinaryIO]) -> None:
    while files:
        files.popitem()[1].close()
