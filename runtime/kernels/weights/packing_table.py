"""The packing table, ``native.json``: the source and the destination of every tensor of the packed file.

``export`` writes it beside the native graph, whose initializers refer to positions in the packed file, which need not
exist yet. The source is the data file of the portable graph. Positions are in bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from export.manifest import PocketspecError
from export.records import build_record
from export.untrusted import MOST_JSON, FileName, UntrustedError, parse_own_json, read_bytes, shown
from runtime.kernels.weights.layout import BLOCK_SIZES, LAYOUT_VERSION, PAGE, SCALE_TYPES, MatrixLayout


class TableError(PocketspecError, ValueError):
    """A packing table that is missing, damaged, or of another version."""


@dataclass(frozen=True)
class Move:
    """A position in the source, and one in the packed file."""

    source: int
    target: int


@dataclass(frozen=True)
class MatrixEntry:
    """A quantized matrix, packed in panels. ``scale_type`` is "fp16" or "fp32"; the source has fp32."""

    name: str
    layout: MatrixLayout
    scale_type: str
    codes: Move
    scales: Move
    zero_points: Move | None = None


@dataclass(frozen=True)
class VectorEntry:
    """Any other tensor: ``size`` bytes that are copied."""

    name: str
    size: int
    move: Move


@dataclass(frozen=True)
class PackingTable:
    """All tensors of a packed file of ``size`` bytes, made from the file ``source`` of ``source_size`` bytes."""

    source: str
    source_size: int
    size: int
    matrices: tuple[MatrixEntry, ...]
    vectors: tuple[VectorEntry, ...]
    layout: int = LAYOUT_VERSION


class TableBuilder:
    """Collects tensors and assigns each the next free page of the packed file, after the header."""

    def __init__(self) -> None:
        self._end = PAGE
        self._matrices: list[MatrixEntry] = []
        self._vectors: list[VectorEntry] = []

    def matrix(
        self, name: str, layout: MatrixLayout, scale_type: str, codes: int, scales: int, zero_points: int | None
    ) -> MatrixEntry:
        """Adds a matrix whose parts begin at these positions of the source."""
        sizes = packed_sizes(layout, scale_type)
        first, second = Move(codes, self._room(sizes[0])), Move(scales, self._room(sizes[1]))
        third = None if zero_points is None else Move(zero_points, self._room(sizes[2]))
        self._matrices.append(MatrixEntry(name, layout, scale_type, first, second, third))
        return self._matrices[-1]

    def vector(self, name: str, position: int, size: int) -> VectorEntry:
        """Adds a tensor of ``size`` bytes at ``position`` of the source."""
        self._vectors.append(VectorEntry(name, size, Move(position, self._room(size))))
        return self._vectors[-1]

    def finish(self, source: str, source_size: int) -> PackingTable:
        """The table of all tensors added."""
        return PackingTable(source, source_size, self._end, tuple(self._matrices), tuple(self._vectors))

    def _room(self, size: int) -> int:
        position = -(-self._end // PAGE) * PAGE
        self._end = position + size
        return position


def packed_sizes(layout: MatrixLayout, scale_type: str) -> tuple[int, int, int]:
    """Bytes of packed codes, scales and zero points (if there are any)."""
    codes, scales, zeros = map(math.prod, (layout.codes_shape, layout.scales_shape, layout.zero_points_shape))
    return codes, scales * SCALE_TYPES[scale_type].itemsize, zeros


def dump_table(table: PackingTable) -> str:
    """The table as JSON text, ending in a line break."""
    data = asdict(table)
    for matrix in data["matrices"]:
        for name in ("stack", "planes"):
            if matrix["layout"][name] == 1:  # as in tables of earlier versions, which knew neither
                del matrix["layout"][name]
    return json.dumps(data, indent=1) + "\n"


def read_table(path: Path) -> tuple[PackingTable, str]:
    """The table in the file ``path``, and the SHA-256 of the file; TableError if it cannot be used."""
    try:
        data = read_bytes(path, MOST_JSON)
    except FileNotFoundError:
        raise TableError(f"{path} cannot be read (there is no such file); export the bundle again") from None
    except UntrustedError as error:
        raise TableError(f"{path} {error}; export the bundle again") from None
    try:
        fields = parse_own_json(data)
        version = fields["layout"]
        table = build_record(PackingTable, fields, str(path)) if version == LAYOUT_VERSION else None
        fault = table and next(_faults(table), None)
    except (UntrustedError, KeyError, TypeError) as error:
        raise TableError(f"{path} is no packing table ({error}); export the bundle again") from None
    if table is None:
        found = shown(version)
        raise TableError(f"{path} has layout version {found}, this version packs {LAYOUT_VERSION}; export it again")
    if fault:
        raise TableError(f"{path} is no packing table: {fault}; export the bundle again")
    return table, hashlib.sha256(data).hexdigest()


def _faults(table: PackingTable) -> Iterator[str]:
    """Faults that no export makes: tensors outside the files, or overlapping ones."""
    if fault := FileName(plain=True).fault(table.source):
        yield f"its source {shown(table.source)} {fault}"
    ends = []
    for matrix in table.matrices:
        layout = matrix.layout
        if min(layout.rows, layout.columns, layout.stack) < 1 or max(layout.portable_rows, layout.columns) > 1 << 28:
            yield f"{shown(matrix.name)} has {layout.rows} rows of {layout.columns}"
        elif layout.bits not in (4, 8) or layout.block_size not in BLOCK_SIZES or layout.parts not in (1, 2):
            yield f"{shown(matrix.name)} has a layout that nothing packs"
        elif layout.planes != 1 and (layout.planes, layout.bits, layout.stack, matrix.zero_points) != (2, 8, 1, None):
            yield f"{shown(matrix.name)} has codes in planes that nothing packs"
        elif matrix.scale_type not in SCALE_TYPES:
            yield f"{shown(matrix.name)} has scales of type {shown(matrix.scale_type)}"
        else:
            ends += _ends(matrix)
    ends += [(vector.move, vector.size, vector.size) for vector in table.vectors]
    for move, read, written in ends:
        if not (0 <= move.source <= table.source_size - read and PAGE <= move.target <= table.size - written):
            yield f"a tensor from {shown(move.source)} to {shown(move.target)} lies outside of the files"
    places = sorted((move.target, move.target + written) for move, _, written in ends)
    if any(end > start for (_, end), (start, _) in pairwise(places)) or any(end < start for start, end in places):
        yield "tensors overlap"


def _ends(matrix: MatrixEntry) -> list[tuple[Move, int, int]]:
    """For each part of a matrix: its positions, the bytes read and the bytes written."""
    layout = matrix.layout
    read = (
        math.prod(layout.portable_codes_shape),
        4 * math.prod(layout.portable_scales_shape),
        math.prod(layout.portable_zero_points_shape),
    )
    moves = (matrix.codes, matrix.scales, matrix.zero_points)
    sizes = zip(moves, read, packed_sizes(layout, matrix.scale_type), strict=True)
    return [(move, taken, written) for move, taken, written in sizes if move is not None]
