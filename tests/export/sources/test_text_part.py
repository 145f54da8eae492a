"""The text part of models that see and hear computes what the whole model does with text alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from export.__main__ import main
from export.sources.checkpoint import Checkpoint
from export.sources.checkpoint_mapping import load_tensors
from export.sources.streamed_model import reference_logits
from export.sources.targets import load_config
from export.sources.text_part import NoTextError, own_name
from tests.export.graph.test_families import TEXT

TEXT_SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
VISION_SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "image_size": 28,
    "patch_size": 14,
    "depth": 1,
    "num_heads": 2,
    "out_hidden_size": 32,
}
WRAPPERS: dict[str, dict[str, Any]] = {
    "gemma3": {"tie_word_embeddings": True},
    "mistral3": {"tie_word_embeddings": False, "text_config": {"model_type": "ministral3"}},
    "qwen3_5": {"tie_word_embeddings": True, "text_config": {"layer_types": ["full_attention"] * 2}},
}


def save(kind: str, folder: Path) -> Any:
    """A random model of the wrapper ``kind``, saved to ``folder``."""
    fields = WRAPPERS[kind]
    text = {**TEXT_SIZES, **fields.get("text_config", {})}
    config = transformers.CONFIG_MAPPING[kind](
        text_config=text, vision_config=VISION_SIZES, tie_word_embeddings=fields["tie_word_embeddings"]
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", WRAPPERS)
def test_the_text_part_computes_what_the_whole_does(kind: str, tmp_path: Path) -> None:
    model = save(kind, tmp_path)
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([TEXT])).logits[0].numpy()
    config, source = load_tensors(load_config(tmp_path), Checkpoint(tmp_path))
    assert config.get_text_config() is config
    assert config.tie_word_embeddings == WRAPPERS[kind]["tie_word_embeddings"]
    others = {name for name in Checkpoint(tmp_path).names() if "vis" in name or "projector" in name}
    assert others
    assert set(source.origins.values()) == set(Checkpoint(tmp_path).names()) - others
    got = reference_logits(config, source, TEXT)
    assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("stored", "own"),
    [
        ("model.language_model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("language_model.model.norm.weight", "model.norm.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("lm_head.weight", "lm_head.weight"),
        ("model.layers.0.language_model.weight", "model.layers.0.language_model.weight"),
        ("vision_tower.layers.0.weight", "vision_tower.layers.0.weight"),
    ],
)
def test_names_lose_the_prefix_of_wrappers(stored: str, own: str) -> None:
    assert own_name(stored) == own


@pytest.mark.parametrize("kind", ["siglip_vision_model", "clip", "qwen2_vl", "wav2vec2"])
def test_a_model_without_text_is_one_line(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transformers.CONFIG_MAPPING[kind]().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    assert main(["--target", str(tmp_path), "--drafter", "none", "--output", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {kind}: transformers has no decoder of text for it; models that only see or hear")


def test_an_assistant_of_gemma_4_is_refused_by_what_it_is(tmp_path: Path) -> None:
    none = {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0, "num_kv_shared_layers": 2}
    text = transformers.Gemma4TextConfig(**TEXT_SIZES, **none)
    transformers.Gemma4AssistantConfig(text_config=text).save_pretrained(tmp_path)
    with pytest.raises(NoTextError, match=r"^gemma4_assistant: all its layers read the KV cache of the model that it"):
        load_config(tmp_path)
