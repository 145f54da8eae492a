"""Small EAGLE-3 checkpoints in the formats that are published, field by field, for the tiny llama of the tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

VOCABULARY, SIZE = 264, 64
_LAYER = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_size": SIZE,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "num_key_value_heads": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000,
    "use_cache": True,
    "vocab_size": VOCABULARY,
}


def specforge_config(tokens: int = VOCABULARY, **more: Any) -> dict[str, Any]:
    """As SpecForge and AngelSlim write it, and vLLM reads it; taps are behind layers 0, 0 and 1."""
    return {
        "architectures": ["LlamaForCausalLMEagle3"],
        **_LAYER,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "draft_vocab_size": tokens,
        "eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 1], "use_aux_hidden_state": True},
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.53.0",
        **more,
    }


def speculators_config(tokens: int = VOCABULARY, **more: Any) -> dict[str, Any]:
    """As speculators writes it; taps are in front of layers 0 to 2."""
    verifier = {"architectures": ["LlamaForCausalLM"], "name_or_path": "tiny-target"}
    method = {"accept_tolerance": 0.0, "proposal_type": "greedy", "speculative_tokens": 3, "verifier_accept_k": 1}
    return {
        "architectures": ["Eagle3Speculator"],
        "auto_map": {"": "eagle3.Eagle3SpeculatorConfig"},
        "draft_vocab_size": tokens,
        "eagle_aux_hidden_state_layer_ids": [0, 1, 2],
        "norm_before_residual": True,
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [method],
            "verifier": verifier,
        },
        "speculators_model_type": "eagle3",
        "speculators_version": "0.3.0",
        "target_hidden_size": None,
        "torch_dtype": "bfloat16",
        "transformer_layer_config": _LAYER,
        **more,
    }


def eagle_tensors(taps: int, tokens: int = VOCABULARY, layer: str = "midlayer") -> dict[str, torch.Tensor]:
    """Random tensors under the names of published checkpoints; ``layer`` is what theirs are called."""
    torch.manual_seed(5)
    shapes = {
        "fc.weight": (SIZE, taps * SIZE),
        "norm.weight": (SIZE,),
        "lm_head.weight": (tokens, SIZE),
        "embed_tokens.weight": (VOCABULARY, SIZE),
        f"{layer}.hidden_norm.weight": (SIZE,),
        f"{layer}.input_layernorm.weight": (SIZE,),
        f"{layer}.post_attention_layernorm.weight": (SIZE,),
        f"{layer}.self_attn.q_proj.weight": (64, 2 * SIZE),
        f"{layer}.self_attn.k_proj.weight": (32, 2 * SIZE),
        f"{layer}.self_attn.v_proj.weight": (32, 2 * SIZE),
        f"{layer}.self_attn.o_proj.weight": (SIZE, 64),
        f"{layer}.mlp.gate_proj.weight": (96, SIZE),
        f"{layer}.mlp.up_proj.weight": (96, SIZE),
        f"{layer}.mlp.down_proj.weight": (SIZE, 96),
    }
    tensors = {name: torch.randn(shape) * shape[-1] ** -0.5 for name, shape in shapes.items()}
    tensors |= {name: torch.rand(shape) + 0.5 for name, shape in shapes.items() if len(shape) == 1}
    if tokens < VOCABULARY:
        known = torch.arange(tokens) * 2 + torch.arange(tokens) % 2
        tensors["d2t"] = known - torch.arange(tokens)
        tensors["t2d"] = torch.zeros(VOCABULARY, dtype=torch.bool).index_fill(0, known, True)
    return tensors


def write_eagle(folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    """Writes both to ``folder``."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return folder
