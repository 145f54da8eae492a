"""Families some of whose layers have states: their graphs equal their own code, whatever was rejected before.

Each has a small random config with four layers, at least one of which attends.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import transformers

from export.graph.trace import GraphOptions
from export.sources.model_shape import shape_of
from tests.export.filled import CAPACITY, Case, relative
from tests.export.graph.test_families import EXPERTS, SMALL, TEXT, TOLERANCE

DELTA_RULE = {
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
    "linear_conv_kernel_dim": 4,
}
MAMBA = {
    "layer_types": ["mamba", "mamba", "attention", "mamba"],
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 24,
    "mamba_n_groups": 1,
    "shared_intermediate_size": 96,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "lfm2": ("lfm2", {"layer_types": ["conv", "conv", "full_attention", "conv"], "block_multiple_of": 32}),
    "qwen3_5": ("qwen3_5_text", DELTA_RULE),
    "qwen3_next": ("qwen3_next", {**DELTA_RULE, "num_experts": 0}),
    "granitemoehybrid": ("granitemoehybrid", {**MAMBA, "num_local_experts": 0}),
    "granitemoehybrid sparse": (
        "granitemoehybrid",
        {**MAMBA, "num_local_experts": 6, "num_experts_per_tok": 2, "intermediate_size": 40},
    ),
    "lfm2_moe": (
        "lfm2_moe",
        {**EXPERTS, "layer_types": ["conv", "conv", "full_attention", "conv"], "num_dense_layers": 1},
    ),
}


@cache
def make_case(family: str) -> Case:
    kind, fields = FAMILIES[family]
    config = transformers.CONFIG_MAPPING[kind](**{**SMALL, "num_hidden_layers": 4, **fields})
    return Case.make(config, GraphOptions("fp32"))


# The operators themselves are tested without a family in tests/runtime/models/test_layer_states.py.
@pytest.fixture(params=[name if name == "lfm2" else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES])
def case(request: pytest.FixtureRequest) -> Case:
    """The family's model and graph; its caches are empty."""
    made = make_case(request.param)
    made.runner.clear()
    return made


def test_a_prompt_equals_the_model(case: Case) -> None:
    assert relative(case.runner.step(TEXT), case.reference(TEXT)) < TOLERANCE


def test_single_tokens_equal_the_model(case: Case) -> None:
    wanted = case.reference(TEXT)
    case.runner.step(TEXT[:2])
    for position in range(2, 12):
        got = case.runner.step(TEXT[position : position + 1])
        assert relative(got, wanted[position : position + 1]) < TOLERANCE


def test_several_tokens_with_a_past_equal_the_model(case: Case) -> None:
    wanted = case.reference(TEXT)
    case.runner.step(TEXT[:5])
    assert relative(case.runner.step(TEXT[5:12]), wanted[5:12]) < TOLERANCE
    assert relative(case.runner.step(TEXT[12:]), wanted[12:]) < TOLERANCE


def test_rejected_rows_leave_no_trace(case: Case) -> None:
    wanted = case.reference(TEXT)
    case.runner.step(TEXT[:5])
    for first, kept, rejected in ((5, 3, [1, 2, 3]), (8, 1, [9, 9]), (9, 2, []), (11, 4, [250])):
        rows = case.runner.step([*TEXT[first : first + kept], *rejected], kept=kept)[:kept]
        assert relative(rows, wanted[first : first + kept]) < TOLERANCE
    assert relative(case.runner.step(TEXT[15:]), wanted[15:]) < TOLERANCE


def test_states_have_the_sizes_that_the_shape_tells(case: Case) -> None:
    shape, past = shape_of(case.model.config), case.runner.past
    rows = shape.convolutions.width - 1 + CAPACITY
    states = {name: array for name, array in past.items() if not name.startswith("past_key_values")}
    counted = sum(array.nbytes * (rows / CAPACITY if "conv" in name else 1) for name, array in states.items())
    assert counted == shape.state_bytes(CAPACITY)
    assert len(past) - len(states) == 2 * shape.kv_layers
