"""A tiny Qwen3.5 checkpoint with the prediction head that such a checkpoint comes with.

Layers add little to the stream, and head and target read the embedding alike, so that the head is often right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.conftest import POSITIONS, SPECIAL, _save_tokenizer

# How much the layers add, and how much of the hidden row the head mixes into the embedding.
_LAYERS, _MIXED = 0.3, 0.2


def mtp_config(**changes: Any) -> Any:
    """The configuration: one gated delta rule and one attention layer."""
    from transformers import CONFIG_MAPPING

    sizes: dict[str, Any] = dict(  # noqa: C408
        vocab_size=256 + len(SPECIAL) + 5,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        layer_types=["linear_attention", "full_attention"],
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        linear_conv_kernel_dim=4,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=256 + SPECIAL.index("<|im_end|>"),
        mtp_num_hidden_layers=1,
        architectures=["Qwen3_5ForCausalLM"],
    )
    return CONFIG_MAPPING["qwen3_5_text"](**{**sizes, **changes})


def write_mtp_checkpoint(folder: Path, **changes: Any) -> Path:
    """Writes weights, configuration and tokenizer; ``changes`` are to the configuration."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = mtp_config(**changes)
    model: Any = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                small = _LAYERS if ".layers." in name else 1.0
                parameter.copy_(torch.randn_like(parameter) * small * parameter.shape[1] ** -0.5)
    model.save_pretrained(folder)
    _save_tokenizer(folder)
    file = folder / "model.safetensors"
    save_file({**load_file(file), **mtp_tensors(config)}, file, metadata={"format": "pt"})
    return folder


def mtp_tensors(config: Any) -> dict[str, torch.Tensor]:
    """The head's tensors under the names of published checkpoints."""
    from export.heads.mtp import mtp_head

    head = mtp_head(config)
    module: Any = head.build("eager")
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in module.named_parameters():
        if name.startswith(("model.embed", "lm_head", "target_norm")):
            continue
        value = torch.zeros_like(parameter)  # of a norm: a gain of one
        if name == "fc.weight":
            size = len(value)
            value = torch.cat((torch.eye(size), _MIXED * torch.randn(size, size) * size**-0.5), 1)
        elif parameter.ndim == 2:
            value = torch.randn_like(parameter) * _LAYERS * parameter.shape[1] ** -0.5
        tensors["mtp." + name.removeprefix("model.")] = value.clone()
    return tensors
