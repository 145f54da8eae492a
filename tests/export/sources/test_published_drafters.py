"""Published drafters, field by field as their makers write them: what is recognised, and what is refused as what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from export.manifest import ParallelDrafts
from export.sources.head_formats import HeadFormatError
from export.sources.hub import HubError, fetch_checkpoint
from export.sources.opened import ModelOrigin, describe_model, open_weights
from export.sources.parallel_drafts import left_out, parallel_drafts
from export.sources.targets import resolve

# FasterDecoding/medusa-vicuna-7b-v1.3 and ankner/hydra-vicuna-7b-v1.3.
MEDUSA = {
    "_name_or_path": "medusa-vicuna-7b-v1.3",
    "base_model_name_or_path": "lmsys/vicuna-7b-v1.3",
    "medusa_num_heads": 2,
    "medusa_num_layers": 1,
    "transformers_version": "4.33.2",
}
HYDRA = {
    "base_model_name_or_path": "lmsys/vicuna-7b-v1.3",
    "dropout_rate": 0.0,
    "grounded_heads": True,
    "hydra_head_arch": "prefix-mlp",
    "hydra_num_heads": 4,
    "hydra_num_layers": 4,
    "transformers_version": "4.37.0",
}
# Beside the model's own fields: amd/PARD-Qwen2.5-0.5B, amd/PARD2-Qwen3-8B.
PARD = {"pard_token": 299, "spd_type": "pard"}
PARD_2 = {
    **PARD,
    "pard2_target_layers": [-1, -8, -16, -24],
    "pard2_scale": 0.02,
    "pard2_target_dim": 256,
    "pard2_proj_bias": False,
}


def _heads(folder: Path, config: dict[str, Any], weights: str) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    (folder / weights).write_bytes(b"\x80\x02}q\x00.")  # a pickle, which is never opened
    return folder


def _model(folder: Path, extra: dict[str, Any]) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=300, max_position_embeddings=64, eos_token_id=2, **sizes, **extra)
    LlamaForCausalLM(config).save_pretrained(folder)
    if "pard2_target_layers" in extra:
        torch.save({"target_proj.weight": torch.zeros(32, 256)}, folder / "warp_model.bin")
    return folder


def _origin(folder: Path) -> ModelOrigin:
    return ModelOrigin(resolve(str(folder)))


@pytest.mark.parametrize(
    ("config", "weights", "message"),
    [
        (MEDUSA, "medusa_lm_head.pt", "has 2 Medusa heads for 'lmsys/vicuna-7b-v1.3' and is no model: give it as --dr"),
        (HYDRA, "hydra_lm_head.pt", "has 4 Hydra heads for 'lmsys/vicuna-7b-v1.3' and is no model"),
        ({"medusa_num_heads": [1] * 99}, "medusa_lm_head.pt", "Medusa heads for 'another model'"),
    ],
    ids=["medusa", "hydra", "malformed"],
)
def test_heads_are_no_models(tmp_path: Path, config: dict[str, Any], weights: str, message: str) -> None:
    with pytest.raises(HeadFormatError, match=message) as caught:
        describe_model(_origin(_heads(tmp_path, config, weights)))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", ["medusa_lm_head.pt", "hydra_lm_head.pt"])
def test_pickled_heads_are_never_opened(tmp_path: Path, name: str) -> None:
    folder = _heads(tmp_path, MEDUSA if "medusa" in name else HYDRA, name)
    with pytest.raises(HubError, match=rf"{name}.* is pickled, .*save_file\(.*safetensors") as caught:
        fetch_checkpoint(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("extra", "drafts", "note"),
    [
        ({}, None, None),
        (PARD, ParallelDrafts(299, 12), None),
        (PARD_2, ParallelDrafts(299, 12), "PARD-2, in its target-independent use"),
    ],
    ids=["plain", "pard", "pard-2"],
)
def test_models_are_recognised_by_their_configuration(
    tmp_path: Path, extra: dict[str, Any], drafts: ParallelDrafts | None, note: str | None
) -> None:
    origin = _origin(_model(tmp_path, extra))
    model = describe_model(origin)
    assert parallel_drafts(model.config) == drafts
    found = left_out(model.config)
    assert found is None if note is None else note in str(found)
    config, source = open_weights(origin, model.config)
    assert set(source.names()) == set(LlamaForCausalLM(config).state_dict())
