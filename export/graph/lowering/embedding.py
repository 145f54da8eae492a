"""Lowers token embeddings: they gather rows of the tied head, or quantized rows of their own.

A tied embedding shares its codes with the head. GatherBlockQuantized and MatMulNBits agree on layout and zero points
but not on the number of axes, hence an alias. A separate embedding is stored in int8 even with int4 weights: gathering
touches a few rows of a mapped file, so its size costs disk and no memory, while its error would reach every layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from export.graph.lowering.linear import Lowered, Storage, make_initializer, matrix_initializers, matrix_recipe
from export.graph.recipe import AliasRecipe, MatrixRecipe, PlainRecipe, Recipe


def lower_embedding(
    weight: PlainRecipe,
    tied: MatrixRecipe | None,
    initializers: Mapping[str, ir.Value],
    ids: ir.Value,
    storage: Storage,
) -> Lowered:
    """Rows ``ids`` of ``weight``; ``tied`` is the recipe of the head that is made of the same tensor."""
    if storage.bits is None:
        return _float_rows(weight, initializers, ids, storage)
    if tied is None:
        rows, columns = weight.shape
        recipe = matrix_recipe(weight.name, weight.sources, rows, columns, replace(storage, weights="int8"))
        codes, *others = matrix_initializers(recipe)
        codes.shape = ir.Shape(in_two_axes(codes))
        return _block_rows(recipe, [codes, *others], ids, [codes, *others], [recipe])
    codes, *others = [initializers[name] for name in (tied.codes, tied.scales, tied.zero_points) if name is not None]
    alias = make_initializer(f"{tied.codes}.rows", ir.DataType.UINT8, in_two_axes(codes))
    return _block_rows(tied, [alias, *others], ids, [alias], [AliasRecipe(str(alias.name), tied.codes)])


def _block_rows(
    matrix: MatrixRecipe,
    stored: Sequence[ir.Value],
    ids: ir.Value,
    initializers: Sequence[ir.Value],
    recipes: Sequence[Recipe],
) -> Lowered:
    attributes = {"bits": matrix.bits, "block_size": matrix.block_size, "gather_axis": 0, "quantize_axis": 1}
    inputs = [stored[0], ids, *stored[1:]]
    nodes = [ir.node("GatherBlockQuantized", inputs, attributes, domain="com.microsoft", version=1)]
    initializers = list(initializers)
    if matrix.columns % matrix.block_size:
        # The operator gives whole blocks; the padding of the last one is cut off.
        bounds = [
            _integers(f"{matrix.codes}.{name}", number)
            for name, number in (("from", 0), ("to", matrix.columns), ("axis", -1))
        ]
        nodes.append(ir.node("Slice", [nodes[0].outputs[0], *bounds]))
        initializers += bounds
    return Lowered(nodes, initializers, recipes)


def _float_rows(weight: PlainRecipe, initializers: Mapping[str, ir.Value], ids: ir.Value, storage: Storage) -> Lowered:
    half = storage.weights == "fp16"
    value = make_initializer(weight.name, ir.DataType.FLOAT16 if half else ir.DataType.FLOAT, weight.shape)
    if (tied := initializers[weight.name]).dtype == value.dtype:
        value = tied
    nodes = [ir.node("Gather", [value, ids], {"axis": 0})]
    if half:
        nodes.append(ir.node("Cast", [nodes[0].outputs[0]], {"to": ir.DataType.FLOAT.value}))
    return Lowered(nodes, [value], [replace(weight, dtype=storage.weights)])


def in_two_axes(codes: ir.Value) -> tuple[int, int]:
    """The shape of codes of a matrix as GatherBlockQuantized takes them."""
    assert codes.shape is not None
    rows, blocks, size = codes.shape.numpy()
    return rows, blocks * size


def _integers(name: str, number: int) -> ir.Value:
    return ir.Value(name=name, const_value=ir.tensor(np.array([number], np.int64), name=name))
