"""The weights of an exported graph under the checkpoint's names: dequantized, by recipes read backwards.

With these weights the reference model must agree with the graph to fp32 precision, whatever quantization lost. That
distinguishes a structural mistake (a wrong permutation, scale or epsilon) from the loss of quantization.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir

from export.graph.recipe import MatrixRecipe, PlainRecipe, Recipe
from export.manifest import PocketspecError
from export.quantization.blocks import dequantize
from export.sources.tensor_source import FloatArray, TensorSource, height_of, row_shape


class NotWrittenError(PocketspecError, RuntimeError):
    """A tensor that the model uses and the graph does not."""


class WrittenWeights:
    """A TensorSource over the data file of an exported graph. ``source`` gives the shapes in the checkpoint."""

    def __init__(self, graph: Path, recipes: Collection[Recipe], source: TensorSource) -> None:
        initializers = onnx_ir.load(graph).graph.initializers
        self._tensors: dict[str, Any] = {name: value.const_value for name, value in initializers.items()}
        self._folder = graph.parent
        self._source = source
        self._places: dict[str, tuple[PlainRecipe | MatrixRecipe, int]] = {}
        for recipe in recipes:
            if not isinstance(recipe, PlainRecipe | MatrixRecipe):
                continue
            first = 0
            for name in recipe.sources:
                self._places[name] = (recipe, first)
                shape = recipe.order.shape(source.shape(name))
                first += row_shape(shape)[0] if isinstance(recipe, MatrixRecipe) else height_of(shape)

    def names(self) -> Collection[str]:
        """Every tensor that went into the graph."""
        return self._places.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape the tensor has in the checkpoint."""
        return self._source.shape(name)

    def read(self, name: str, first: int = 0, last: int | None = None) -> FloatArray:
        """Rows of a tensor as the graph sees them, float32."""
        if name not in self._places:
            raise NotWrittenError(
                f"the model uses {name}, and its graph does not; this is a defect of the export, nothing was kept"
            )
        recipe, start = self._places[name]
        shape = self.shape(name)
        last = height_of(shape) if last is None else last
        if isinstance(recipe, MatrixRecipe):
            shape = recipe.order.shape(shape)
            inner = math.prod(shape[1:-1])  # rows of each matrix of a stack
            rows = self._dequantize(recipe, start + first * inner, start + last * inner)
            return recipe.order.to_stored(rows.reshape(last - first, *shape[1:]))
        if recipe.transpose:
            rows = self._rows(recipe.name, recipe.shape[0], 0, recipe.shape[0]).T[start + first : start + last]
        else:
            rows = self._rows(recipe.name, height_of(recipe.shape), start + first, start + last)
        shape = (last - first, *recipe.order.shape(shape)[1:]) if shape else ()
        values = recipe.order.to_stored(rows.reshape(shape))
        return np.asarray(values - np.float32(recipe.offset), np.float32, order="C")

    def _dequantize(self, recipe: MatrixRecipe, first: int, last: int) -> FloatArray:
        blocks = -(-recipe.columns // recipe.block_size)
        codes = self._rows(recipe.codes, recipe.rows, first, last).reshape(last - first, blocks, -1)
        scales = self._rows(recipe.scales, recipe.rows, first, last)
        zeros = None if recipe.zero_points is None else self._rows(recipe.zero_points, recipe.rows, first, last)
        return dequantize(codes, scales, zeros, recipe.bits)[:, : recipe.columns]

    def _rows(self, name: str, rows: int, first: int, last: int) -> npt.NDArray[Any]:
        """Rows of an initializer that consists of ``rows`` rows, whatever its own shape is.

        They are read, not mapped: pages of a mapped file would stay resident and count as memory of the check.
        """
        tensor = self._tensors[name]
        if not isinstance(tensor, onnx_ir.ExternalTensor):
            return np.asarray(tensor.numpy()).reshape(rows, -1)[first:last]
        dtype, width = tensor.dtype.numpy(), tensor.size // rows
        offset = (tensor.offset or 0) + first * width * dtype.itemsize
        count = (last - first) * width
        return np.fromfile(self._folder / tensor.location, dtype, count, offset=offset).reshape(last - first, width)
