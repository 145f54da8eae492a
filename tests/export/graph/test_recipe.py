"""Which matrices stay floats beside quantized ones."""

from __future__ import annotations

from export.graph.recipe import ConstantRecipe, MatrixRecipe, PlainRecipe, Recipe, float_kinds

LAYER = "model.layers.0."
FLOATS = (
    PlainRecipe("taps", (f"{LAYER}linear_attn.conv1d.weight",), (64, 1, 4), transpose=True),
    PlainRecipe("router", (f"{LAYER}mlp.gate.weight",), (8, 32), dtype="fp16"),
    PlainRecipe("decays", (f"{LAYER}linear_attn.A_log",), (2,)),
)
CODES = MatrixRecipe("codes", "scales", (f"{LAYER}self_attn.q_proj.weight",), 32, 32, 4, 32)


def test_matrices_beside_quantized_ones_are_named_by_kind() -> None:
    recipes: list[Recipe] = [*FLOATS, CODES, ConstantRecipe("turns", [[1.0]])]  # type: ignore[arg-type]
    assert float_kinds(iter(recipes)) == {"conv1d": "fp32", "gate": "fp16"}


def test_where_nothing_is_quantized_nothing_is_kept() -> None:
    assert float_kinds(FLOATS) == {}
