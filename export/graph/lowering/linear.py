"""Lowers ``nn.Linear``: to a placeholder while tracing, which an operator replaces once products are packed.

The placeholder ``pocketspec::Linear(x, weight, bias)`` has the checkpoint's layout, weight ``[rows, columns]``, and may
stand for several matrices stacked by rows. ``lower_product`` alone decides which operator computes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import nn
from torch.onnx.ops import symbolic

from export.graph.recipe import MatrixRecipe, PlainRecipe, Recipe
from export.manifest import WeightType

DOMAIN = "pocketspec"
PLACEHOLDER = "Linear"


@dataclass(frozen=True)
class Storage:
    """How matrices are stored; ``block_size`` and ``symmetric`` matter to int4 and int8 only."""

    weights: WeightType
    block_size: int
    symmetric: bool

    @property
    def bits(self) -> int | None:
        """Bits per code, None for floats."""
        return {"int4": 4, "int8": 8}.get(self.weights)


class LoweredLinear(nn.Module):
    """Emits the placeholder. Parameters keep their names, which are the checkpoint's."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x @ weight.T + bias``."""
        shape = (*x.shape[:-1], self.weight.shape[0])
        inputs = [x, self.weight] if self.bias is None else [x, self.weight, self.bias]
        return symbolic(f"{DOMAIN}::{PLACEHOLDER}", inputs, dtype=x.dtype, shape=shape, version=1)


@dataclass(frozen=True)
class Product:
    """One matrix product of the graph: ``x @ weight.T + bias``, the weight made of ``sources`` stacked by rows."""

    name: str
    x: ir.Value
    bias: ir.Value | None
    sources: tuple[str, ...]
    rows: int
    columns: int


@dataclass(frozen=True)
class Lowered:
    """The nodes that compute something (the last one's output is the result), and their initializers."""

    nodes: Sequence[ir.Node]
    initializers: Sequence[ir.Value]
    recipes: Sequence[Recipe]


def lower_product(product: Product, storage: Storage) -> Lowered:
    """MatMulNBits for int4 and int8, otherwise a float product."""
    return _float_product(product, storage) if storage.bits is None else _block_product(product, storage, storage.bits)


def name_of(recipe: Recipe) -> str:
    """The initializer that stands for a recipe: its only one, or the codes."""
    return recipe.codes if isinstance(recipe, MatrixRecipe) else recipe.name


def make_initializer(name: str, dtype: ir.DataType, shape: Sequence[int]) -> ir.Value:
    """A value without content yet; its recipe fills it."""
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))


def matrix_initializers(recipe: MatrixRecipe) -> list[ir.Value]:
    """Codes, scales and, where there are any, zero points of a quantized matrix."""
    blocks = -(-recipe.columns // recipe.block_size)
    codes = (recipe.rows, blocks, recipe.block_size * recipe.bits // 8)
    values = [make_initializer(recipe.codes, ir.DataType.UINT8, codes)]
    values.append(make_initializer(recipe.scales, ir.DataType.FLOAT, (recipe.rows, blocks)))
    if recipe.zero_points is not None:
        shape = (recipe.rows, -(-blocks * recipe.bits // 8))
        values.append(make_initializer(recipe.zero_points, ir.DataType.UINT8, shape))
    return values


def matrix_recipe(name: str, sources: tuple[str, ...], rows: int, columns: int, storage: Storage) -> MatrixRecipe:
    """The recipe of a quantized matrix, its initializers named after ``name``."""
    assert storage.bits is not None
    zero_points = None if storage.symmetric else f"{name}.zero_points"
    codes, scales = f"{name}.codes", f"{name}.scales"
    return MatrixRecipe(codes, scales, sources, rows, columns, storage.bits, storage.block_size, zero_points)


def _block_product(product: Product, storage: Storage, bits: int) -> Lowered:
    recipe = matrix_recipe(product.name, product.sources, product.rows, product.columns, storage)
    values = matrix_initializers(recipe)
    attributes = {"K": product.columns, "N": product.rows, "bits": bits, "block_size": storage.block_size}
    inputs = [product.x, *values[:2], values[2] if len(values) == 3 else None, None, product.bias]
    while inputs[-1] is None:
        inputs.pop()
    # Accuracy level 4 (activations rounded to int8 per block) is what has fast kernels on CPUs.
    node = ir.node("MatMulNBits", inputs, {**attributes, "accuracy_level": 4}, domain="com.microsoft", version=1)
    return Lowered([node], values, [recipe])


def _float_product(product: Product, storage: Storage) -> Lowered:
    """The weight keeps the checkpoint's layout, so a tied embedding can gather its rows from the same bytes."""
    half = storage.weights == "fp16"
    recipe = PlainRecipe(product.name, product.sources, (product.rows, product.columns), storage.weights)
    weight = make_initializer(product.name, ir.DataType.FLOAT16 if half else ir.DataType.FLOAT, recipe.shape)
    nodes = [ir.node("Cast", [weight], {"to": ir.DataType.FLOAT.value})] if half else []
    right = nodes[0].outputs[0] if half else weight
    nodes.append(ir.node("FusedMatMul", [product.x, right], {"transB": 1}, domain="com.microsoft", version=1))
    if product.bias is not None:
        nodes.append(ir.node("Add", [nodes[-1].outputs[0], product.bias]))
    return Lowered(nodes, [weight], [recipe])
