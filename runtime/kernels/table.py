"""The packing table, ``native.json``: where every tensor of the packed file comes from, and where it goes.

``export`` writes it beside the native graph, whose initializers point at the same places of a file that need not exist
yet. The source is the portable graph's data file; bytes are positions in the two files.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export.manifest import PocketspecError
from runtime.kernels.layout import LAYOUT_VERSION, PAGE, SCALE_TYPES, MatrixLayout


class TableError(PocketspecError, ValueError):
    """A packing table that is missing, damaged, or of another version."""


@dataclass(frozen=True)
class Move:
    """From which position of the source to which one of the packed file."""

    source: int
    target: int


@dataclass(frozen=True)
class Matrix:
    """A quantized matrix that is laid out in panels. ``scale_type`` is "fp16" or "fp32", the source has fp32."""

    name: str
    layout: MatrixLayout
    scale_type: str
    codes: Move
    scales: Move
    zero_points: Move | None = None


@dataclass(frozen=True)
class Vector:
    """Anything else: ``size`` bytes that are copied as they are."""

    name: str
    size: int
    move: Move


@dataclass(frozen=True)
class Table:
    """All tensors of a packed file of ``size`` bytes, made from the file ``source`` of ``source_size`` bytes."""

    source: str
    source_size: int
    size: int
    matrices: tuple[Matrix, ...]
    vectors: tuple[Vector, ...]
    layout: int = LAYOUT_VERSION


class TableBuilder:
    """Collects tensors and gives each the next page of the packed file, behind the header."""

    def __init__(self) -> None:
        self._end = PAGE
        self._matrices: list[Matrix] = []
        self._vectors: list[Vector] = []

    def matrix(
        self, name: str, layout: MatrixLayout, scale_type: str, codes: int, scales: int, zero_points: int | None
    ) -> Matrix:
        """A matrix whose parts begin at these positions of the source."""
        sizes = packed_sizes(layout, scale_type)
        first, second = Move(codes, self._room(sizes[0])), Move(scales, self._room(sizes[1]))
        third = None if zero_points is None else Move(zero_points, self._room(sizes[2]))
        self._matrices.append(Matrix(name, layout, scale_type, first, second, third))
        return self._matrices[-1]

    def vector(self, name: str, position: int, size: int) -> Vector:
        """A tensor of ``size`` bytes at ``position`` of the source."""
        self._vectors.append(Vector(name, size, Move(position, self._room(size))))
        return self._vectors[-1]

    def finish(self, source: str, source_size: int) -> Table:
        """The table."""
        return Table(source, source_size, self._end, tuple(self._matrices), tuple(self._vectors))

    def _room(self, size: int) -> int:
        position = -(-self._end // PAGE) * PAGE
        self._end = position + size
        return position


def packed_sizes(layout: MatrixLayout, scale_type: str) -> tuple[int, int, int]:
    """Bytes of packed codes, scales and (where there are any) zero points."""
    entries = layout.panels * layout.blocks
    codes, scales, zeros = layout.codes_shape[2], layout.scales_shape[2], layout.zero_points_shape[2]
    return entries * codes, entries * scales * SCALE_TYPES[scale_type].itemsize, entries * zeros


def dump_table(table: Table) -> str:
    """The table as JSON text, ending in a line break."""
    return json.dumps(asdict(table), indent=1) + "\n"


def read_table(path: Path) -> tuple[Table, str]:
    """The table in the file ``path``, and the SHA-256 of the file; TableError if it cannot be used."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TableError(f"{path} cannot be read ({error.strerror}); export the bundle again") from None
    try:
        fields = json.loads(data)
        version = fields["layout"]
        table = _build(fields) if version == LAYOUT_VERSION else None
    except (ValueError, KeyError, TypeError) as error:
        raise TableError(f"{path} is no packing table ({error!r}); export the bundle again") from None
    if table is None:
        raise TableError(f"{path} has layout version {version}, this version packs {LAYOUT_VERSION}; export it again")
    return table, hashlib.sha256(data).hexdigest()


def _build(fields: dict[str, Any]) -> Table:
    matrices = tuple(
        Matrix(
            **{
                **entry,
                "layout": MatrixLayout(**entry["layout"]),
                "codes": Move(**entry["codes"]),
                "scales": Move(**entry["scales"]),
                "zero_points": entry["zero_points"] and Move(**entry["zero_points"]),
            }
        )
        for entry in fields["matrices"]
    )
    vectors = tuple(Vector(**{**entry, "move": Move(**entry["move"])}) for entry in fields["vectors"])
    return Table(**{**fields, "matrices": matrices, "vectors": vectors})
