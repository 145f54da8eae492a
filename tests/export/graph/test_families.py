"""Every family we claim: its graph equals its own code, for prompts, single tokens, several tokens and trees.

Each has a small random config with the family's peculiarities on, and two layers where layers differ. Windows are
shorter than the texts.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
import transformers

from export.graph.kv_variants import write_kv_graph
from export.graph.trace import GraphOptions
from export.validation.kv_ranges import measure_ranges
from runtime.models.exact_widths import any_width
from runtime.models.ort_model import OrtModel, open_session
from tests.export.filled import Case, relative

SMALL = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "factor": 2.0,
    "original_max_position_embeddings": 32,
    "partial_rotary_factor": 0.5,
    "short_factor": [1 + i / 8 for i in range(4)],
    "long_factor": [9.0] * 4,
}
TWO_ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 8}
WINDOW_THEN_FULL = {
    "num_hidden_layers": 2,
    "sliding_window": 6,
    "layer_types": ["sliding_attention", "full_attention"],
}
SHARED_CACHES = {
    "num_hidden_layers": 4,
    "head_dim": 16,
    "sliding_window": 6,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 8,
}
EXPERTS = {"moe_intermediate_size": 40, "num_experts": 8, "num_experts_per_tok": 3}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"num_hidden_layers": 2, "rope_parameters": LLAMA3_ROPE}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"head_dim": 24}),
    "mistral": ("mistral", {"sliding_window": 6}),
    "smollm3": ("smollm3", {"num_hidden_layers": 2, "no_rope_layers": [1, 0]}),
    "gemma2": (
        "gemma2",
        {
            "num_hidden_layers": 2,
            "head_dim": 24,
            "query_pre_attn_scalar": 20,
            "sliding_window": 6,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 8.0,
        },
    ),
    "gemma3": (
        "gemma3_text",
        {
            **WINDOW_THEN_FULL,
            "head_dim": 24,
            "query_pre_attn_scalar": 20,
            "rope_parameters": TWO_ROPES,
        },
    ),
    "phi3": (
        "phi3",
        {
            "sliding_window": 6,
            "partial_rotary_factor": 0.5,
            "rope_parameters": LONGROPE,
            "original_max_position_embeddings": 32,
        },
    ),
    "granite": (
        "granite",
        {
            "embedding_multiplier": 3.0,
            "logits_scaling": 4.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.3,
        },
    ),
    "olmo2": ("olmo2", {}),
    "bitnet": ("bitnet", {"hidden_act": "relu2"}),
    # Queries grow with the logarithm of the position: three times within these texts.
    "ministral3": ("ministral3", {"head_dim": 24, "rope_parameters": {**YARN, "llama_4_scaling_beta": 0.5}}),
    "exaone4": ("exaone4", {**WINDOW_THEN_FULL, "sliding_window_pattern": "LG"}),
    "hunyuan_v1_dense": (
        "hunyuan_v1_dense",
        {"head_dim": 24, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "alpha": 100.0, "factor": 1.0}},
    ),
    "olmo3": ("olmo3", {**WINDOW_THEN_FULL, "rope_parameters": {**YARN, "attention_factor": 1.2}}),
    # The last two layers read the caches of the first two.
    "gemma4": (
        "gemma4_text",
        {
            **SHARED_CACHES,
            "global_head_dim": 24,
            "use_double_wide_mlp": True,
            "vocab_size_per_layer_input": 300,
            "final_logit_softcapping": 8.0,
        },
    ),
    # The first layer has no experts.
    "qwen3_moe": (
        "qwen3_moe",
        {**EXPERTS, "num_hidden_layers": 2, "head_dim": 24, "norm_topk_prob": True, "mlp_only_layers": [0]},
    ),
    "mixtral": ("mixtral", {"num_local_experts": 4}),
    # The gate is limited well within the values of these weights.
    "gpt_oss": (
        "gpt_oss",
        {
            **WINDOW_THEN_FULL,
            "head_dim": 24,
            "intermediate_size": 40,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "swiglu_limit": 1.5,
            "rope_parameters": YARN,
        },
    ),
    "gemma3n": (
        "gemma3n_text",
        {
            **SHARED_CACHES,
            "intermediate_size": [96] * 4,
            "vocab_size_per_layer_input": 290,
            "altup_num_inputs": 3,
            "laurel_rank": 8,
            "activation_sparsity_pattern": [0.9, 0.0, 0.0, 0.0],
        },
    ),
    "apertus": ("apertus", {"hidden_act": "xielu", "rope_parameters": LLAMA3_ROPE}),
}
TEXT = [23, 191, 7, 150, 42, 288, 5, 77, 134, 260, 99, 18, 201, 66, 31, 245, 112, 8]
# Two branches under the anchor, one of them forking again; siblings share a position.
TREE = [TEXT[13], 17, 20, 21, 40, 41, 50]
PARENTS = [-1, 0, 0, 1, 2, 2, 5]
TOLERANCE = 1e-5


# What is peculiar to these others have as well: the windows of gemma2, the head size, norms and ropes of gemma3, the
# layers without rope of smollm3, the rope of apertus; biases are in test_trace.py.
LATER = ("llama", "qwen2", "mistral", "qwen3", "exaone4", "hunyuan_v1_dense", "olmo3", "mixtral", "gemma3n")
CHOSEN = [pytest.param(name, marks=pytest.mark.slow) if name in LATER else name for name in FAMILIES]


@cache
def make_case(family: str) -> Case:
    kind, fields = FAMILIES[family]
    return Case.make(transformers.CONFIG_MAPPING[kind](**{**SMALL, **fields}), GraphOptions("fp32"))


@pytest.fixture(params=CHOSEN)
def case(request: pytest.FixtureRequest) -> Case:
    """The family's model and graph; its cache is empty."""
    made = make_case(request.param)
    made.runner.length = 0
    return made


def test_a_prompt_equals_the_model(case: Case) -> None:
    assert relative(case.runner.step(TEXT), case.reference(TEXT)) < TOLERANCE


def test_single_tokens_equal_the_model(case: Case) -> None:
    wanted = case.reference(TEXT)
    case.runner.step(TEXT[:10])
    for position in range(10, 14):
        got = case.runner.step(TEXT[position : position + 1])
        assert relative(got, wanted[position : position + 1]) < TOLERANCE


def test_several_tokens_with_a_past_equal_the_model(case: Case) -> None:
    wanted = case.reference(TEXT)
    case.runner.step(TEXT[:5])
    assert relative(case.runner.step(TEXT[5:12]), wanted[5:12]) < TOLERANCE
    assert relative(case.runner.step(TEXT[12:]), wanted[12:]) < TOLERANCE


def test_rejected_rows_leave_nothing_behind(case: Case) -> None:
    case.runner.step(TEXT[:10])
    case.runner.step([*TEXT[10:12], 5, 6, 7])
    case.runner.length = 12
    assert relative(case.runner.step(TEXT[12:]), case.reference(TEXT)[12:]) < TOLERANCE


def test_a_tree_path_equals_that_path_alone(case: Case) -> None:
    past = TEXT[:13]
    case.runner.step(past)
    logits = case.runner.step(TREE, PARENTS)
    for row in range(len(TREE)):
        path, node = [], row
        while node >= 0:
            path.insert(0, TREE[node])
            node = PARENTS[node]
        assert relative(logits[row], case.reference(past + path)[-1]) < TOLERANCE


def test_only_wanted_rows_come_back(case: Case) -> None:
    assert relative(case.runner.step(TEXT, logits_from=15), case.reference(TEXT)[15:]) < TOLERANCE


KV_TYPES = {"fp16": 5e-3, "int8": 0.1, "int4": 0.6}
# Windows, softcaps and odd scales of attention count in quantized caches, too.
FEW = [("gemma2", "int4"), ("gemma3", "fp16"), ("phi3", "int8"), ("granite", "int4"), ("apertus", "int8")]
SHARED = ("gemma3n", "gemma4")  # whose portable graphs have no quantized caches
REST = [
    pair for pair in product(FAMILIES, KV_TYPES) if pair not in FEW and (pair[0] not in SHARED or pair[1] == "fp16")
]


@pytest.mark.parametrize(("family", "kind"), [*FEW, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in REST)])
def test_other_kv_types_are_close(family: str, kind: str, tmp_path: Path) -> None:
    case = make_case(family)
    ir.save(case.graph.model, tmp_path / "model.onnx")
    ranges = measure_ranges(tmp_path / "model.onnx", TEXT)
    graph = tmp_path / write_kv_graph(tmp_path, "model.onnx", kind, ranges)
    model = OrtModel(open_session(graph, 1), 40, 20, 20, any_width(20))
    model.forward(TEXT[:9])
    assert relative(model.forward(TEXT[9:]).logits, case.reference(TEXT)[9:]) < KV_TYPES[kind]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stories260k", "bitllama-1m", "bitllama-3m"])
def test_trained_models_equal_their_own_code(name: str, shared_data: Path) -> None:
    folder = shared_data / "models" / name
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    case = Case.of(model.eval(), GraphOptions("fp32"))
    text = [1, 403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 409]
    wanted = case.reference(text)
    assert relative(case.runner.step(text[:9]), wanted[:9]) < TOLERANCE
    assert relative(case.runner.step(text[9:]), wanted[9:]) < TOLERANCE
