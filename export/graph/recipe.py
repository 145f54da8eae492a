"""Recipes: how the initializers of a lowered graph are made from the tensors of a checkpoint.

``graph`` builds a graph without weights and lists one recipe for each initializer or quantized matrix; ``writer``
streams the weights through the recipes afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class StackOrder:
    """How a checkpoint stores a stack of matrices or vectors of experts, ``[experts, ...]``, other than the graph.

    ``turned``: its matrices are ``[columns, rows]``. ``alternating``: rows of gate and up take turns; in the graph
    those of gate come first.
    """

    turned: bool = False
    alternating: bool = False

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """The graph's shape of a tensor of the checkpoint."""
        return (*stored[:1], *stored[:0:-1]) if self.turned else stored

    def to_graph(self, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Some experts of a checkpoint's tensor as the graph has them."""
        rows = stored.swapaxes(1, 2) if self.turned else stored
        return np.concatenate((rows[:, 0::2], rows[:, 1::2]), 1) if self.alternating else rows

    def to_stored(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The inverse of ``to_graph``."""
        if self.alternating:
            rows = np.stack(np.split(rows, 2, 1), 2).reshape(rows.shape)
        return rows.swapaxes(1, 2) if self.turned else rows


@dataclass(frozen=True)
class PlainRecipe:
    """Initializer ``name`` holds ``sources`` stacked by rows, plus ``offset`` (Gemma norms store weight - 1).

    ``dtype`` is "fp32" or "fp16", ``transpose`` reverses the axes after stacking. ``shape`` is that before ``order``
    is applied.
    """

    name: str
    sources: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str = "fp32"
    offset: float = 0.0
    transpose: bool = False
    order: StackOrder = StackOrder()


@dataclass(frozen=True)
class MatrixRecipe:
    """A block-quantized matrix ``[rows, columns]``: ``sources`` stacked by rows, in the layout of MatMulNBits.

    ``codes`` is uint8 ``[rows, blocks, block_size * bits / 8]``, ``scales`` float32 ``[rows, blocks]``, and
    ``zero_points`` (None: symmetric, the middle code) uint8 ``[rows, ceil(blocks * bits / 8)]``, with
    ``blocks = ceil(columns / block_size)``; a last short block is padded with zeros.
    """

    codes: str
    scales: str
    sources: tuple[str, ...]
    rows: int
    columns: int
    bits: int
    block_size: int
    zero_points: str | None = None
    order: StackOrder = StackOrder()


@dataclass(frozen=True)
class ConstantRecipe:
    """Initializer ``name`` is ``value``, computed at export (rotary tables)."""

    name: str
    value: npt.NDArray[Any]


@dataclass(frozen=True)
class AliasRecipe:
    """Initializer ``name`` has the bytes of initializer ``of`` in another shape: same file, offset and length.

    GatherBlockQuantized takes the codes of a tied head in two axes, MatMulNBits in three. A Reshape between them would
    be folded into a private copy when a session opens (117 MB for Qwen2-1.5B).
    """

    name: str
    of: str


Recipe = PlainRecipe | MatrixRecipe | ConstantRecipe | AliasRecipe


@dataclass(frozen=True)
class LoweredGraph:
    """A graph (onnx_ir.Model) whose large initializers have no values yet, and the recipes for them."""

    model: Any
    recipes: tuple[Recipe, ...]


def float_kinds(recipes: Iterable[Recipe]) -> dict[str, str]:
    """How the matrices are stored that are not quantized beside others that are, by kind; empty if none is quantized.

    A kind is the last part of a module's name: ``conv1d``, ``gate``. Vectors, which are always floats, are left out.
    """
    made = list(recipes)
    if not any(isinstance(recipe, MatrixRecipe) for recipe in made):
        return {}
    plain = [recipe for recipe in made if isinstance(recipe, PlainRecipe) and len(recipe.shape) > 1]
    kinds = {source.removesuffix(".weight").rpartition(".")[2]: one.dtype for one in plain for source in one.sources}
    return dict(sorted(kinds.items()))
