"""Streams the tensors of a source through the recipes of a lowered graph into ``model.onnx`` and ``model.onnx.data``.

Matrices are cut into tiles of rows: one thread reads and writes while others quantize, so that only a few tiles are in
memory at any time. Every initializer of a kilobyte or more is in the data file. Large ones begin at a page, so that
ONNX Runtime can map them and custom operators can use them where they lie.
"""

from __future__ import annotations

import errno
import math
import os
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from export.graph.recipe import AliasRecipe, ConstantRecipe, LoweredGraph, MatrixRecipe, PlainRecipe, Recipe
from export.manifest import PocketspecError
from export.quantization.blocks import Quantized, QuantizeError
from export.quantization.quantize import Quantizer
from export.sources.tensor_source import FloatArray, TensorSource, row_shape
from export.writer.data_file import DataFile, dims_of, size_of

_TILE_BYTES = 8 << 20  # float32 rows of one tile
_INLINE_BYTES = 1024  # smaller initializers stay in the graph file
_DTYPES: Mapping[str, np.dtype[Any]] = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16)}


class WeightsError(PocketspecError, ValueError):
    """Tensors that do not fit the graph, values that do not fit their type, or a disk that is full."""


@dataclass(frozen=True)
class WeightReport:
    """``bytes`` of the data file, and the ``error`` of all quantized matrices: root mean square, relative to theirs.

    ``unused`` are the tensors of the source that no recipe reads; they may mean that the graph lacks a part.
    """

    bytes: int
    error: float | None
    unused: tuple[str, ...]


def write_weights(
    graph: LoweredGraph,
    source: TensorSource,
    folder: Path,
    quantizer: Quantizer,
    stem: str = "model",
    report: Callable[[int], None] = lambda count: None,
    importance: Mapping[str, FloatArray] | None = None,
    threads: int = 2,
) -> WeightReport:
    """Writes ``folder/<stem>.onnx`` and ``folder/<stem>.onnx.data``, or nothing if it fails or is interrupted.

    ``report`` gets the bytes written since its last call. ``importance`` has what the quantizer takes as such, by
    tensor; some may be missing. WeightsError, before anything is written, if a tensor has another shape than the graph.
    """
    for recipe in graph.recipes:
        _check_shapes(recipe, source)
    final, part = folder / f"{stem}.onnx", folder / f"{stem}.onnx.part"
    data = DataFile(folder / f"{stem}.onnx.data", report)
    try:
        writer = _Writer(graph.model, source, data, quantizer, importance or {}, threads)
        error = writer.run(graph.recipes)
        ir.save(graph.model, part)
        data.finish()
        os.replace(part, final)
    except BaseException as failure:
        data.discard()
        part.unlink(missing_ok=True)
        if isinstance(failure, OSError) and failure.errno == errno.ENOSPC:
            raise WeightsError(_disk_full(folder, graph)) from failure
        raise
    return WeightReport(data.size, error, _unused(graph.recipes, source))


class _Writer:
    """One run over all recipes, with the tiles that are being quantized and the error so far."""

    def __init__(
        self,
        model: ir.Model,
        source: TensorSource,
        data: DataFile,
        quantizer: Quantizer,
        importance: Mapping[str, FloatArray],
        threads: int,
    ) -> None:
        self._initializers = model.graph.initializers
        self._source, self._data = source, data
        self._quantizer, self._importance, self._threads = quantizer, importance, threads
        self._pending: deque[tuple[Future[Quantized], Callable[[Quantized], None]]] = deque()
        self._error = self._total = 0.0

    def run(self, recipes: Sequence[Recipe]) -> float | None:
        """Writes everything; returns the relative error of the quantized matrices, None without any."""
        filled = {name for recipe in recipes for name in _targets(recipe)}
        for name, value in list(self._initializers.items()):
            if name not in filled:
                tensor = value.const_value
                assert tensor is not None, f"no recipe fills initializer {name}"
                if tensor.nbytes >= _INLINE_BYTES:
                    value.shape, value.dtype = ir.Shape(tensor.shape.numpy()), tensor.dtype
                    self._constant(name, tensor.numpy())
        with ThreadPoolExecutor(self._threads) as pool:
            try:
                for recipe in recipes:
                    self._write(recipe, pool)
                while self._pending:
                    self._finish_tile()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        for recipe in recipes:
            if isinstance(recipe, AliasRecipe):
                self._alias(recipe)
        if not any(isinstance(recipe, MatrixRecipe) for recipe in recipes):
            return None
        return math.sqrt(self._error / self._total) if self._total else 0.0

    def _write(self, recipe: Recipe, pool: ThreadPoolExecutor) -> None:
        if isinstance(recipe, MatrixRecipe):
            self._matrix(recipe, pool)
        elif isinstance(recipe, PlainRecipe):
            self._plain(recipe)
        elif isinstance(recipe, ConstantRecipe):
            self._constant(recipe.name, recipe.value)

    def _matrix(self, recipe: MatrixRecipe, pool: ThreadPoolExecutor) -> None:
        """Submits the tiles of a matrix and finishes those of earlier ones."""
        targets = [self._data.place(self._initializers[name]) for name in _targets(recipe)]
        start = 0
        for name in recipe.sources:
            importance = self._importance.get(name)
            for first, rows in _tiles(self._source, name):
                flat = recipe.order.to_graph(rows).reshape(-1, recipe.columns)
                task = partial(_quantize, self._quantizer, recipe, name, flat, importance)
                write = partial(self._write_tile, recipe, targets, start + first * (len(flat) // len(rows)))
                self._pending.append((pool.submit(task), write))
                if len(self._pending) > self._threads:
                    self._finish_tile()
            start += row_shape(recipe.order.shape(self._source.shape(name)))[0]

    def _finish_tile(self) -> None:
        future, write = self._pending.popleft()
        write(future.result())

    def _write_tile(self, recipe: MatrixRecipe, targets: Sequence[int], first: int, tile: Quantized) -> None:
        parts = (tile.codes, tile.scales, tile.zero_points)
        for position, part in zip(targets, parts, strict=False):
            assert part is not None
            self._data.write(position + first * (part.nbytes // len(part)), part)
        self._error += tile.error[0]
        self._total += tile.error[1]

    def _plain(self, recipe: PlainRecipe) -> None:
        dtype = _DTYPES[recipe.dtype]
        if math.prod(recipe.shape) * dtype.itemsize < _INLINE_BYTES:
            parts = [_converted(recipe, name, self._source.read(name)) for name in recipe.sources]
            array = np.concatenate(parts) if recipe.shape else parts[0]
            turned = array.T.reshape(dims_of(self._initializers[recipe.name])) if recipe.transpose else array
            self._place(recipe.name, turned)
            return
        position, start = self._data.place(self._initializers[recipe.name]), 0
        for name in recipe.sources:
            for first, rows in _tiles(self._source, name):
                array = _converted(recipe, name, rows)
                if recipe.transpose:
                    self._write_columns(position, recipe, start + first, array)
                else:
                    self._data.write(position + (start + first) * (array.nbytes // len(array)), array)
            start += self._source.shape(name)[0]

    def _write_columns(self, position: int, recipe: PlainRecipe, first: int, rows: npt.NDArray[Any]) -> None:
        """Writes rows as the columns from ``first`` on of the transposed matrix ``[columns, all rows]``."""
        for row, values in enumerate(np.ascontiguousarray(rows.T)):
            self._data.write(position + (row * recipe.shape[-1] + first) * values.itemsize, values)

    def _constant(self, name: str, array: npt.NDArray[Any]) -> None:
        if array.nbytes < _INLINE_BYTES:
            self._place(name, array)
        else:
            self._data.write(self._data.place(self._initializers[name]), np.ascontiguousarray(array))

    def _alias(self, recipe: AliasRecipe) -> None:
        value, same = self._initializers[recipe.name], self._initializers[recipe.of].const_value
        assert same is not None
        if isinstance(same, ir.ExternalTensor):
            self._data.place(value, same.offset)
        else:
            self._place(recipe.name, same.numpy().reshape(dims_of(value)))

    def _place(self, name: str, array: npt.NDArray[Any]) -> None:
        """Puts the array into the graph file."""
        value = self._initializers[name]
        assert array.shape == dims_of(value), name
        value.const_value = ir.tensor(np.asarray(array, order="C"), value.dtype, name=name)


def _quantize(
    quantizer: Quantizer, recipe: MatrixRecipe, name: str, rows: FloatArray, importance: FloatArray | None
) -> Quantized:
    symmetric = recipe.zero_points is None
    try:
        return quantizer.quantize(rows, recipe.bits, recipe.block_size, symmetric, importance)
    except QuantizeError as error:
        raise WeightsError(f"tensor {name!r}: {error}") from None


def _converted(recipe: PlainRecipe, name: str, rows: FloatArray) -> npt.NDArray[Any]:
    """Rows with the recipe's offset, order and type."""
    dtype = _DTYPES[recipe.dtype]
    with np.errstate(over="ignore"):
        moved = rows + np.float32(recipe.offset) if recipe.offset else rows
        array = recipe.order.to_graph(moved).astype(dtype, copy=False)
    if not np.isfinite(array).all():
        raise WeightsError(
            f"tensor {name!r} has values up to {np.abs(rows).max():.3g}, which {recipe.dtype} cannot hold; "
            "use another --quant, or download the checkpoint again if they are not numbers"
        )
    return np.asarray(array, order="C")


def _tiles(source: TensorSource, name: str) -> Iterator[tuple[int, FloatArray]]:
    """A tensor in runs of rows: the number of the first row, and the rows."""
    shape = source.shape(name)
    step = max(1, _TILE_BYTES // (4 * math.prod(shape[1:])))
    for first in range(0, shape[0], step):
        yield first, source.read(name, first, min(first + step, shape[0]))


def _targets(recipe: Recipe) -> list[str]:
    """The initializers that a recipe fills, in the order codes, scales, zero points."""
    if isinstance(recipe, MatrixRecipe):
        return [name for name in (recipe.codes, recipe.scales, recipe.zero_points) if name is not None]
    return [recipe.name]


def _check_shapes(recipe: Recipe, source: TensorSource) -> None:
    """Raises WeightsError unless the recipe's tensors, stacked, have the shape that the graph expects."""
    if isinstance(recipe, MatrixRecipe):
        expected: tuple[int, ...] = (recipe.rows, recipe.columns)
        if all(row_shape(recipe.order.shape(source.shape(name))) == expected for name in recipe.sources):
            return  # a stack of experts
    elif isinstance(recipe, PlainRecipe):
        expected = recipe.shape[::-1] if recipe.transpose else recipe.shape
    else:
        return
    shapes = {name: source.shape(name) for name in recipe.sources}
    height = (sum(shape[0] for shape in shapes.values()),) if all(shapes.values()) else ()
    if (*height, *expected[1:]) == expected and all(shape[1:] == expected[1:] for shape in shapes.values()):
        return
    found = ", ".join(f"{name!r} {list(shape)}" for name, shape in shapes.items())
    what = "tensor" if len(shapes) == 1 else "stacked tensors"
    raise WeightsError(
        f"wrong shape: {what} {found}, the graph of this config expects {list(expected)}; "
        "config.json and weights are not of one model"
    )


def _unused(recipes: Collection[Recipe], source: TensorSource) -> tuple[str, ...]:
    read = {name for recipe in recipes if isinstance(recipe, MatrixRecipe | PlainRecipe) for name in recipe.sources}
    return tuple(sorted(name for name in source.names() if name not in read))


def _disk_full(folder: Path, graph: LoweredGraph) -> str:
    values = graph.model.graph.initializers.values()
    needed = sum(size_of(value) if value.const_value is None else value.const_value.nbytes for value in values)
    return f"the disk is full: the weights in {folder} need {needed:,} bytes; free space or give another --output"
