"""Files of named arrays in the safetensors format, written and read piece by piece, with a hash over everything.

The package of that name builds a whole file in memory, and so would take a KV cache a second time; here rows go from
the cache to the file and back. What is written can be read by it. The format: a length (8 bytes, little endian), a JSON
header of that length with type, shape and place of every array and a mapping of texts (``__metadata__``), the arrays.

Of the metadata, ``sha256`` is that of the whole file with 64 zeros in its place. Nothing of a file is believed: the
header is bounded before it is read, arrays lie one behind the other from its end to the end of the file, and only then
anything is allocated or filled.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.own_files import part_of
from export.untrusted import MOST_JSON, UntrustedError, parse_own_json, shown
from runtime.sessions.errors import SessionError

# The names of the types that a KV cache or a list of tokens may have.
TYPES = {"F32": np.float32, "F16": np.float16, "I32": np.int32, "I8": np.int8, "U8": np.uint8}
_NAMES = {np.dtype(kind): name for name, kind in TYPES.items()}
_NO_HASH = "0" * 64
_PIECE = 1 << 20
_PRIVATE = 0o600
# A save that was killed leaves its part behind. One that has not grown for so long will not be finished.
_STALE_SECONDS = 600.0


@dataclass(frozen=True)
class Tensor:
    """An array in a file: its type, its shape, and the bytes from ``begin`` to ``end``, counted behind the header."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


def write_tensors(path: Path, metadata: Mapping[str, str], arrays: Sequence[tuple[str, npt.NDArray[Any]]]) -> None:
    """Writes ``arrays`` in this order, and ``metadata`` with their hash, for its user alone.

    All of it or nothing: whatever happens, ``path`` is the old file or the new one. SessionError in one line.
    """
    raw = _header(metadata, arrays)
    with suppress(OSError):
        _remove_stale(path)
    try:
        _refuse_unfit(path)
        _write(path, raw, arrays)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SessionError(f"cannot save the session to {path}: {reason}; what was there is unchanged") from None


def _header(metadata: Mapping[str, str], arrays: Sequence[tuple[str, npt.NDArray[Any]]]) -> bytes:
    """Length and header with a hash of zeros, padded so that the arrays are aligned."""
    entries: dict[str, Any] = {"__metadata__": {**metadata, "sha256": _NO_HASH}}
    place = 0
    for name, array in arrays:
        end = place + array.nbytes
        entries[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MOST_JSON:
        raise SessionError(
            f"the session has {len(text):,} bytes of text, at most {MOST_JSON:,} are saved; begin a new one"
        )
    return len(text).to_bytes(8, "little") + text


def _write(path: Path, raw: bytes, arrays: Sequence[tuple[str, npt.NDArray[Any]]]) -> None:
    part, flags = part_of(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with FileIO(os.open(part, flags, _PRIVATE), "wb") as file:
            digest = hashlib.sha256(raw)
            _write_all(file, memoryview(raw))
            for _, array in arrays:
                for piece in _pieces(array):
                    digest.update(piece)
                    _write_all(file, piece)
            file.seek(raw.index(f'"sha256":"{_NO_HASH}"'.encode()) + len('"sha256":"'))
            _write_all(file, memoryview(digest.hexdigest().encode()))
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink()
    _sync_folder(path.parent)


def _write_all(file: FileIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]


def _sync_folder(folder: Path) -> None:
    """Makes the new name outlive a loss of power, where folders can be opened."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove_stale(path: Path) -> None:
    """Removes what saves that were killed have left beside ``path``."""
    for place in path.parent.iterdir():
        if place.name.startswith(f"{path.name}.") and place.suffix == ".part":
            status = place.lstat()
            if stat.S_ISREG(status.st_mode) and time.time() - status.st_mtime > _STALE_SECONDS:
                place.unlink()


def _refuse_unfit(path: Path) -> None:
    """OSError unless ``path`` is free, or a regular file."""
    if not path.parent.is_dir():
        raise OSError(errno.ENOENT, f"there is no folder {path.parent}")
    with suppress(FileNotFoundError):
        if fault := _kind_fault(_mode(path)):
            raise OSError(errno.EINVAL, f"it {fault}")


def _mode(path: Path) -> int:
    """What ``path`` is, no link followed; OSError for a name that no file can have, too."""
    try:
        return path.lstat().st_mode
    except ValueError as error:
        raise OSError(errno.EINVAL, f"it is no name of a file: {error}") from None


def _kind_fault(mode: int) -> str | None:
    if stat.S_ISLNK(mode):
        return "is a link, which is not followed; name the file itself"
    if stat.S_ISDIR(mode):
        return "is a folder"
    return None if stat.S_ISREG(mode) else "is no regular file"


class TensorFile:
    """An open file whose header is sound; see ``open_tensors``."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self._path, self._file = path, file
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(self._exactly(8), "little")
        if length > min(MOST_JSON, size - 8):
            raise UntrustedError(f"says that its header has {length:,} bytes, and the file has {size:,}")
        self._raw = self._exactly(length)
        header = parse_own_json(self._raw)
        self.metadata = _metadata(header)
        self.tensors = _tensors(header, size - 8 - length)

    def read(self, places: Mapping[str, npt.NDArray[Any]]) -> None:
        """Fills ``places``, which have the types and shapes of the arrays of these names, and reads past all others.

        UntrustedError if the file is not the one that was written; then ``places`` may be filled in part.
        """
        digest = hashlib.sha256(len(self._raw).to_bytes(8, "little") + self._without_hash())
        skipped = memoryview(bytearray(_PIECE))
        for name, tensor in sorted(self.tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
            place = places.get(name)
            for piece in _pieces(place) if place is not None else _spread(skipped, tensor.end - tensor.begin):
                self._fill(piece)
                digest.update(piece)
        if digest.hexdigest() != self.metadata["sha256"]:
            raise UntrustedError("is damaged: its content does not have the hash that it was saved with")

    def _without_hash(self) -> bytes:
        written = f'"sha256":"{self.metadata["sha256"]}"'.encode()
        if self._raw.count(written) != 1:
            raise UntrustedError("does not have one hash, as files of sessions have")
        return self._raw.replace(written, f'"sha256":"{_NO_HASH}"'.encode())

    def _exactly(self, count: int) -> bytes:
        data = bytearray(count)
        self._fill(memoryview(data))
        return bytes(data)

    def _fill(self, place: memoryview) -> None:
        while place:
            count = self._file.readinto(place)
            if not count:
                raise UntrustedError("is cut off")
            place = place[count:]


@contextmanager
def open_tensors(path: Path) -> Iterator[TensorFile]:
    """The file at ``path``, opened for reading. UntrustedError says what is wrong with it, within the context as well.

    FileNotFoundError if there is none.
    """
    flags = ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY")
    try:
        if fault := _kind_fault(_mode(path)):
            raise UntrustedError(fault)
        handle = os.open(path, os.O_RDONLY | sum(getattr(os, name, 0) for name in flags))
        with FileIO(handle, "rb") as file:
            if fault := _kind_fault(os.fstat(handle).st_mode):
                raise UntrustedError(fault)
            yield TensorFile(path, file)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UntrustedError(f"cannot be read ({error.strerror or error})") from None


def _metadata(header: Any) -> dict[str, str]:
    metadata = header.pop("__metadata__", None) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise UntrustedError("is no session: its header has no texts")
    if not re.fullmatch("[0-9a-f]{64}", metadata.get("sha256", "")):
        raise UntrustedError("is no session: its header has no hash")
    return metadata


def _tensors(header: Mapping[str, Any], size: int) -> dict[str, Tensor]:
    """The arrays of ``header``, which lie one behind the other in ``size`` bytes."""
    tensors = {name: _tensor(name, entry) for name, entry in header.items()}
    places = sorted((tensor.begin, tensor.end) for tensor in tensors.values())
    edges = [(0, 0), *places, (size, size)]
    if any(before[1] != after[0] for before, after in pairwise(edges)):
        raise UntrustedError(f"has arrays that do not fill its {size:,} bytes one behind the other")
    return tensors


def _tensor(name: str, entry: Any) -> Tensor:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise UntrustedError(f"has an array {shown(name)} without type, shape and place")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in TYPES:
        raise UntrustedError(f"has an array {shown(name)} of type {shown(kind)}; there are: {', '.join(TYPES)}")
    if not _are_sizes(shape) or len(shape) > 4 or not _are_sizes(offsets) or len(offsets) != 2:
        raise UntrustedError(f"has an array {shown(name)} of shape {shown(shape)} at {shown(offsets)}")
    dtype = np.dtype(TYPES[kind])
    if offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise UntrustedError(f"has an array {shown(name)} whose shape {shown(shape)} and size do not agree")
    return Tensor(dtype, tuple(shape), *offsets)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _pieces(array: npt.NDArray[Any]) -> Iterable[memoryview]:
    """The bytes of ``array``, of one axis or of three whose last two are contiguous, in order; they can be written."""
    for part in array if array.ndim > 1 else (array,):
        yield part.reshape(-1).view(np.uint8).data


def _spread(buffer: memoryview, size: int) -> Iterator[memoryview]:
    """``buffer`` as often as ``size`` bytes need it."""
    for start in range(0, size, len(buffer)):
        yield buffer[: min(len(buffer), size - start)]
