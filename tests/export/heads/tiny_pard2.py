"""A small PARD-2 checkpoint, field by field as published ones, with its projection in safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.conftest import _save_tokenizer

VOCABULARY, TARGET_SIZE, MASK = 264, 64, 3
STATES = [-1, -2]


def pard2_config(**more: Any) -> Any:
    """For a target of two layers: behind its final norm, and in front of its last layer."""
    from transformers import LlamaConfig

    fields: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "pard_token": MASK,
        "spd_type": "pard",
        "pard2_target_layers": STATES,
        "pard2_scale": 0.5,
        "pard2_target_dim": len(STATES) * TARGET_SIZE,
        "pard2_proj_bias": False,
    }
    return LlamaConfig(**{**fields, **more})


def write_pard2(folder: Path, **more: Any) -> Path:
    """Writes the checkpoint; ``more`` are fields of its configuration."""
    from transformers import LlamaForCausalLM

    torch.manual_seed(3)
    config = pard2_config(**more)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.randn_like(parameter) * parameter.shape[1] ** -0.5)
    model.save_pretrained(folder)
    _save_tokenizer(folder)
    projection = torch.randn(config.hidden_size, config.pard2_target_dim) * config.pard2_target_dim**-0.5
    save_file({"target_proj.weight": projection}, folder / "warp_model.safetensors")
    return folder
