"""Which files an ONNX graph reads its weights from: found before ONNX Runtime opens it, for it opens what it is told.

Only the fields that lead to a tensor are looked at, as ``onnx.proto`` numbers them; weights are skipped. A graph may
name files beside it and nothing else: no other folder, no memory address, nothing that a link leads out of the bundle.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from export.manifest import ManifestError, refuse_links
from export.untrusted import FileName, UntrustedError, shown

_VARIABLE, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5  # how a field of protobuf is stored
_MOST_DEPTH = 64
_TENSOR, _ENTRY = "tensor", "entry"
# Messages, and their fields that hold messages in which there are tensors.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: _TENSOR, 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {13: _ENTRY},
}
_KEY, _VALUE = 1, 2
_LOCATION = b"location"
_PLAIN = FileName(plain=True)


def check_locations(bundle: Path, graph: Path) -> None:
    """ManifestError unless the graph file ``graph`` of ``bundle`` reads weights from files beside it alone."""
    try:
        names = locations(graph)
    except UntrustedError as error:
        raise ManifestError(f"{graph} {error}; export the bundle again") from None
    for name in sorted(names):
        if fault := _PLAIN.fault(name):
            raise ManifestError(f"{graph} reads weights from {shown(name)}, which {fault}; it is not opened")
    folder = graph.parent.relative_to(bundle).as_posix()
    refuse_links(bundle, (f"{folder}/{name}" for name in sorted(names)))


def locations(graph: Path) -> set[str]:
    """The names of all files that tensors of the graph file lie in, beside itself; UntrustedError if it is no graph."""
    try:
        with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return {_decode(name) for name in _walk(data, 0, len(data), "model", 0)}
    except (OSError, ValueError) as error:
        if isinstance(error, UntrustedError):
            raise
        raise UntrustedError(f"cannot be read ({' '.join(str(error).split())})") from None


def _walk(data: mmap.mmap, start: int, end: int, message: str, depth: int) -> Iterator[bytes]:
    """The locations in the ``message`` that lies from ``start`` to ``end``."""
    if depth > _MOST_DEPTH:
        raise UntrustedError(f"is nested more than {_MOST_DEPTH} deep")
    fields = _FIELDS[message]
    for number, first, last in _fields(data, start, end):
        inner = fields.get(number)
        if inner == _ENTRY:
            yield from _location(data, first, last)
        elif inner is not None:
            yield from _walk(data, first, last, inner, depth + 1)


def _location(data: mmap.mmap, start: int, end: int) -> Iterator[bytes]:
    """What an entry of a key and a value says, if it is about the location; fields that are there twice, twice."""
    texts: dict[int, list[bytes]] = {_KEY: [], _VALUE: []}
    for number, first, last in _fields(data, start, end):
        if number in texts:
            texts[number].append(data[first:last])
    if _LOCATION in texts[_KEY]:
        yield from texts[_VALUE]


def _fields(data: mmap.mmap, place: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of every field of a message that has a length."""
    while place < end:
        key, place = _varint(data, place, end)
        kind = key & 7
        if kind == _VARIABLE:
            _, place = _varint(data, place, end)
            continue
        if kind not in (_EIGHT, _BYTES, _FOUR):
            raise UntrustedError("is no ONNX graph")
        size, place = _varint(data, place, end) if kind == _BYTES else (8 if kind == _EIGHT else 4, place)
        if size > end - place:
            raise UntrustedError("is no ONNX graph, or is cut off")
        if kind == _BYTES:
            yield key >> 3, place, place + size
        place += size


def _varint(data: mmap.mmap, place: int, end: int) -> tuple[int, int]:
    """A number of variable length at ``place``, and the place behind it."""
    value = shift = 0
    while place < end and shift < 64:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
    raise UntrustedError("is no ONNX graph, or is cut off")


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
