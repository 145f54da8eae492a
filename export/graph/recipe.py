"""How the initializers of a lowered graph are made from the tensors of a checkpoint.

The graph is built without weights; it lists one recipe per initializer (or per quantized matrix), and the weights are
streamed through the recipes afterwards. Both sides meet here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt


@dataclass(frozen=True)
class PlainRecipe:
    """Initializer ``name`` holds ``sources`` stacked by rows, plus ``offset`` (Gemma norms store weight - 1).

    ``dtype`` is "fp32" or "fp16", ``transpose`` swaps the two axes after stacking.
    """

    name: str
    sources: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str = "fp32"
    offset: float = 0.0
    transpose: bool = False


@dataclass(frozen=True)
class MatrixRecipe:
    """A block-quantized matrix ``[rows, columns]``: ``sources`` stacked by rows, as MatMulNBits wants them.

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


@dataclass(frozen=True)
class ConstantRecipe:
    """Initializer ``name`` is ``value``, computed at export (rotary tables)."""

    name: str
    value: npt.NDArray[Any]


@dataclass(frozen=True)
class AliasRecipe:
    """Initializer ``name`` is the very bytes of initializer ``of`` under another shape: same file, offset and length.

    GatherBlockQuantized wants the codes of a tied head in two axes where MatMulNBits wants three, and a Reshape
    between them would be folded at load into a private copy (117 MB for Qwen2-1.5B).
    """

    name: str
    of: str


Recipe = PlainRecipe | MatrixRecipe | ConstantRecipe | AliasRecipe


@dataclass(frozen=True)
class LoweredGraph:
    """A graph (onnx_ir.Model) whose large initializers have no values yet, and the recipes for them."""

    model: Any
    recipes: tuple[Recipe, ...]
