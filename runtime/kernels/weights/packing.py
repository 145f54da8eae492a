"""Writes the packed file ``native.data`` from the portable weights, as the packing table says.

The source is streamed. This thread reads and writes while others pack slabs of a few megabytes, so it needs little
memory for any model. The file is written under a temporary name and renamed when it is complete and on disk: two
processes that pack at once do the work twice without harm, and an interruption leaves no file.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from export.manifest import PACKED_FILE_NAME, PACKING_TABLE_NAME
from export.own_files import open_new, part_of
from runtime.kernels.weights.content import content_hash
from runtime.kernels.weights.disk import PackingError, check_space, clear_abandoned, explain, is_same, put_in_place
from runtime.kernels.weights.layout import (
    LAYOUT_VERSION,
    PAGE,
    PANEL,
    PLANES_TOP,
    SCALE_TYPES,
    MatrixLayout,
    pack_codes,
    pack_scales,
    pack_zero_points,
    panel_rows,
    split_planes,
)
from runtime.kernels.weights.packing_table import MatrixEntry, PackingTable, read_table

MAGIC = "pocketspec native data"
_SLAB_BYTES = 2 << 20  # bytes of codes read and written at a time
_TILE_BYTES = 128 << 10  # bytes of codes packed at a time; 3 x slower where they do not fit the cache
_OTHERWISE = "use --kernels portable"

_PackedPiece = tuple[int, npt.NDArray[Any]]  # a position in the packed file, and its content


def pack(
    folder: Path,
    source_hash: str,
    output: Path | None = None,
    report: Callable[[int], None] = lambda count: None,
    threads: int = 2,
) -> Path:
    """Writes ``output/native.data`` from the table and the weights in ``folder``; returns its path.

    ``output`` None means ``folder``. ``source_hash`` is the SHA-256 of the weights in the manifest. ``report`` is
    called with the bytes written since its last call. PackingError if it fails; then no file is left.
    """
    table, table_hash = read_table(folder / PACKING_TABLE_NAME)
    path = (output or folder) / PACKED_FILE_NAME
    part = part_of(path)
    _check_source(folder / table.source, table)
    try:
        clear_abandoned(path.parent, f"{PACKED_FILE_NAME}.*.part")
        check_space(path.parent, table.size)
        with (folder / table.source).open("rb", buffering=0) as source, open_new(part) as target:
            for position, array in _pieces(source, table, threads):
                _write(target, position, memoryview(array.data).cast("B"))
                report(array.nbytes)
            target.truncate(table.size)
            # Last, because a header makes the file current.
            _write(target, 0, make_header(source_hash, table_hash, table.size, content_hash(part, PAGE)))
            os.fsync(target.fileno())
        if not is_same(part, path):  # else another process was faster: its file is used
            put_in_place(part, path)
    except OSError as error:
        raise explain(error, path, table.size, _OTHERWISE) from error
    finally:
        with suppress(OSError):
            part.unlink()
    return path


def make_header(source_hash: str, table_hash: str, size: int, content: str) -> bytes:
    """The header of a packed file: a JSON object, padded with spaces. ``content``: SHA-256 of all other pages."""
    fields = {"magic": MAGIC, "layout": LAYOUT_VERSION, "source": source_hash, "table": table_hash, "bytes": size}
    return json.dumps({**fields, "content": content}).encode().ljust(PAGE)


def _pieces(source: BinaryIO, table: PackingTable, threads: int) -> Iterator[_PackedPiece]:
    """All pieces to be written, matrices in the order of the table."""
    for vector in table.vectors:
        yield vector.move.target, _read(source, vector.move.source, (vector.size,), np.uint8)
    pending: deque[Future[list[_PackedPiece]]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for task in _tasks(source, table):
            pending.append(pool.submit(task))
            if len(pending) > threads:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _tasks(source: BinaryIO, table: PackingTable) -> Iterator[Callable[[], list[_PackedPiece]]]:
    """Reads slab after slab; each task packs one."""
    for matrix in table.matrices:
        layout = matrix.layout
        group_bytes = layout.parts * PANEL * layout.blocks * layout.portable_codes_shape[2]
        step = max(1, _SLAB_BYTES // group_bytes)
        for number, first in product(range(layout.stack), range(0, layout.groups, step)):
            last = min(first + step, layout.groups)
            panel = (number * layout.groups + first) * layout.parts
            yield partial(_lay_out, matrix, panel, *_read_slab(source, matrix, number, first, last))


def _read_slab(source: BinaryIO, matrix: MatrixEntry, number: int, first: int, last: int) -> list[npt.NDArray[Any]]:
    """Codes, scales and perhaps zero points ``[parts, rows, ...]`` of panels ``first`` to ``last`` of each part.

    ``number``: of which matrix of a stack.
    """
    layout = matrix.layout
    kinds: list[tuple[int, tuple[int, ...], npt.DTypeLike]] = [
        (matrix.codes.source, layout.portable_codes_shape[1:], np.uint8),
        (matrix.scales.source, layout.portable_scales_shape[1:], np.float32),
    ]
    if matrix.zero_points is not None:
        kinds.append((matrix.zero_points.source, layout.portable_zero_points_shape[1:], np.uint8))
    rows = range(first * PANEL, min(last * PANEL, layout.rows))
    slab = []
    for position, shape, dtype in kinds:
        row_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        parts = range(number * layout.parts, (number + 1) * layout.parts)
        starts = [position + (part * layout.rows + rows.start) * row_bytes for part in parts]
        slab.append(np.stack([_read(source, start, (len(rows), *shape), dtype) for start in starts]))
    return slab


def _lay_out(
    matrix: MatrixEntry,
    panel: int,
    codes: npt.NDArray[np.uint8],
    scales: npt.NDArray[np.float32],
    zero_points: npt.NDArray[np.uint8] | None = None,
) -> list[_PackedPiece]:
    """One slab in the packed layout, from ``panel`` on."""
    layout = matrix.layout
    rows = panel_rows(codes, _double(layout.middle, layout.bits))
    scaled = pack_scales(panel_rows(scales, 0), SCALE_TYPES[matrix.scale_type])
    pieces = [*_packed_codes(matrix, rows), (matrix.scales.target, scaled)]
    if zero_points is not None and matrix.zero_points is not None:
        zeros = panel_rows(zero_points, _double(layout.middle, layout.bits))
        pieces.append((matrix.zero_points.target, pack_zero_points(zeros, layout.bits, layout.blocks)))
    return [(target + panel * array[0].nbytes, array) for target, array in pieces]


def _packed_codes(matrix: MatrixEntry, rows: npt.NDArray[np.uint8]) -> list[_PackedPiece]:
    """Packed codes, with the position of the first panel of their plane."""
    layout, target = matrix.layout, matrix.codes.target
    if layout.planes == 1:
        return [(target, _pack_tiles(rows, layout))]
    if rows.max(initial=0) > PLANES_TOP:
        raise PackingError(
            f"{matrix.name} has codes above {PLANES_TOP}, whose halves cannot lie apart; export it again"
        )
    half, plane_bytes = layout.high_half, math.prod(layout.codes_shape) // 2
    high, low = (_pack_tiles(part, half) for part in split_planes(rows))
    return [(target, high), (target + plane_bytes, low)]


def _pack_tiles(rows: npt.NDArray[np.uint8], layout: MatrixLayout) -> npt.NDArray[np.uint8]:
    """``pack_codes``, a few panels at a time."""
    step = PANEL * max(1, _TILE_BYTES // (PANEL * rows[0].nbytes))
    packed = np.empty((len(rows) // PANEL, *layout.codes_shape[1:]), np.uint8)
    for first in range(0, len(rows), step):
        tile = pack_codes(rows[first : first + step], layout.bits)
        packed[first // PANEL : first // PANEL + len(tile)] = tile
    return packed


def _double(code: int, bits: int) -> int:
    """The byte that holds ``code`` twice, or once if it has eight bits."""
    return code | code << 4 if bits == 4 else code


def _read(source: BinaryIO, position: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    array = np.empty(shape, dtype)
    view = memoryview(array.data).cast("B")
    source.seek(position)
    while view:
        count = source.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise OSError(errno.EIO, "the file ends too early")
        view = view[count:]
    return array


def _write(target: BinaryIO, position: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    target.seek(position)
    while view:
        view = view[target.write(view) :]


def _check_source(path: Path, table: PackingTable) -> None:
    size = path.stat().st_size if path.is_file() else None
    if size != table.source_size:
        seen = "is missing" if size is None else f"has {size:,} bytes, its packing table says {table.source_size:,}"
        raise PackingError(f"{path} {seen}; export the bundle again")
