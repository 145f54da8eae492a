"""The config file that lets onnxruntime-genai load the root of a bundle.

genai refuses keys and model types that it does not know. So the file has only what genai 0.18 reads, and families
without a type get no file. Our own inputs of the graph (``tree_bias``, ``logits_from``) have defaults.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from export.manifest import ModelShape, Vocabulary

FILE_NAME = "genai_config.json"

# Decoder types that genai 0.18 knows, by HF's model type. For these families the type has no other effect.
TYPES = {
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3_text",
    "granite": "granite",
    "llama": "llama",
    "mistral": "mistral",
    "olmo": "olmo",
    "phi3": "phi3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "smollm3": "smollm3",
}


def make_genai_config(
    config: PretrainedConfig, shape: ModelShape, vocabulary: Vocabulary, graph: str
) -> dict[str, Any] | None:
    """The content of ``genai_config.json`` for the graph file ``graph``, or None for a type genai does not know."""
    kind = TYPES.get(config.model_type)
    if kind is None or not vocabulary.eos_token_ids:
        return None
    eos = list(vocabulary.eos_token_ids)
    pad = config.pad_token_id if isinstance(config.pad_token_id, int) else eos[0]
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": graph,
        "head_size": shape.head_size,
        "hidden_size": shape.hidden_size,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "position_ids": "position_ids",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    model: dict[str, Any] = {
        "type": kind,
        "vocab_size": shape.vocab_size,
        "context_length": shape.positions,
        "eos_token_id": eos if len(eos) > 1 else eos[0],
        "pad_token_id": pad,
        "decoder": decoder,
    }
    if vocabulary.bos_token_id is not None:
        model["bos_token_id"] = vocabulary.bos_token_id
    search = {"max_length": shape.positions, "do_sample": False, "past_present_share_buffer": True}
    return {"model": model, "search": search}


def write_genai_config(folder: Path, content: dict[str, Any] | None) -> None:
    """Writes the file; ``content`` None: there is none."""
    if content is not None:
        (folder / FILE_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
