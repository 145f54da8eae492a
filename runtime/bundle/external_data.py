"""Which files an ONNX graph reads its weights from, and where in them its tensors lie.

The files are checked before ONNX Runtime opens a graph, for it opens what it is told. A graph may name files beside it
and nothing else: no other folder, no memory address, nothing that a link leads out of the bundle. Only the fields that
lead to a tensor are looked at, as ``onnx.proto`` numbers them; weights are skipped.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from export.manifest import ManifestError, refuse_links
from export.untrusted import FileName, UntrustedError, shown
from runtime.bundle.protobuf import Buffer, Field, read_fields

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
_LOCATION, _OFFSET, _LENGTH = b"location", b"offset", b"length"
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
            entries = (path[-1] for path in _entries(data, 0, len(data), "model", ()))
            return {_decode(name) for entry in entries for name in _location(data, entry)}
    except (OSError, ValueError) as error:
        if isinstance(error, UntrustedError):
            raise
        raise UntrustedError(f"cannot be read ({' '.join(str(error).split())})") from None


@dataclass(frozen=True)
class ExternalTensor:
    """Where a tensor lies in its data file, in bytes, and the fields of the graph file that lead to its offset."""

    offset: int
    length: int
    offset_path: tuple[Field, ...]


def external_tensors(graph: bytes) -> Iterator[ExternalTensor]:
    """The tensors of a graph file, of which ``graph`` is the content, that lie in a data file and say where."""
    tensors: dict[tuple[Field, ...], dict[bytes, tuple[Field, ...]]] = {}
    for path in _entries(graph, 0, len(graph), "model", ()):
        texts = {field.number: field for field in read_fields(graph, path[-1].first, path[-1].last)}
        if _KEY in texts and _VALUE in texts:
            tensors.setdefault(path[:-1], {})[_content(graph, texts[_KEY])] = (*path, texts[_VALUE])
    for known in tensors.values():
        if _OFFSET in known and _LENGTH in known:
            offset, length = (int(_content(graph, known[key][-1])) for key in (_OFFSET, _LENGTH))
            yield ExternalTensor(offset, length, known[_OFFSET])


def _entries(data: Buffer, start: int, end: int, message: str, path: tuple[Field, ...]) -> Iterator[tuple[Field, ...]]:
    """The entries that say where tensors lie in the ``message`` from ``start`` to ``end``, with the fields around them.

    ``path`` leads to the message.
    """
    if len(path) > _MOST_DEPTH:
        raise UntrustedError(f"is nested more than {_MOST_DEPTH} deep")
    known = _FIELDS[message]
    for field in read_fields(data, start, end):
        inner = known.get(field.number)
        if inner == _ENTRY:
            yield (*path, field)
        elif inner is not None:
            yield from _entries(data, field.first, field.last, inner, (*path, field))


def _location(data: Buffer, entry: Field) -> Iterator[bytes]:
    """What an entry of a key and a value says, if it is about the location; fields that are there twice, twice."""
    texts: dict[int, list[bytes]] = {_KEY: [], _VALUE: []}
    for field in read_fields(data, entry.first, entry.last):
        if field.number in texts:
            texts[field.number].append(_content(data, field))
    if _LOCATION in texts[_KEY]:
        yield from texts[_VALUE]


def _content(data: Buffer, field: Field) -> bytes:
    return data[field.first : field.last]


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
