"""Experts in MXFP4 are read as transformers unpacks them, and become the graph's like those of other types."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from export.sources.checkpoint import Checkpoint, CheckpointError
from export.sources.checkpoint_mapping import load_tensors
from export.sources.targets import load_config
from tests.export.graph.test_families import FAMILIES, SMALL

EXPERTS = "model.layers.0.mlp.experts"


def packed(shape: tuple[int, ...], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random blocks and scales of matrices ``[experts, rows, columns]``."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (*shape[:2], shape[2] // 32, 16), np.uint8)
    scales = random.integers(110, 135, (*shape[:2], shape[2] // 32), np.uint8)
    return torch.from_numpy(blocks), torch.from_numpy(scales)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of GPT-OSS as it is published: experts in MXFP4, everything else in bfloat16."""
    kind, fields = FAMILIES["gpt_oss"]
    changed = {"num_hidden_layers": 1, "layer_types": None, "intermediate_size": 96}
    config = transformers.CONFIG_MAPPING[kind](**{**SMALL, **fields, **changed})
    transformers.AutoModelForCausalLM.from_config(config).bfloat16().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for seed, name in enumerate(("gate_up_proj", "down_proj")):
        experts, columns, rows = tensors.pop(f"{EXPERTS}.{name}").shape
        pair = packed((experts, rows, columns), seed)
        tensors[f"{EXPERTS}.{name}_blocks"], tensors[f"{EXPERTS}.{name}_scales"] = pair
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    path = tmp_path / "config.json"
    settings = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": settings}))
    return tmp_path


def change(folder: Path, name: str, tensor: torch.Tensor | None) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file({**tensors, **({} if tensor is None else {name: tensor})}, folder / "model.safetensors")


def test_experts_are_those_that_transformers_unpacks(folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    config, tensors = load_tensors(load_config(folder), Checkpoint(folder))
    assert not hasattr(config, "quantization_config")
    assert not tensors.unexpected
    for name in (f"{EXPERTS}.gate_up_proj", f"{EXPERTS}.down_proj"):
        wanted = convert_moe_packed_tensors(stored[f"{name}_blocks"], stored[f"{name}_scales"], dtype=torch.float32)
        np.testing.assert_array_equal(tensors.read(name), wanted.numpy())
        np.testing.assert_array_equal(tensors.read(name, 1, 3), wanted[1:3].numpy())
        assert tensors.shape(name) == tuple(wanted.shape)


@pytest.mark.parametrize("scales", [None, torch.zeros(4, 64, 2, dtype=torch.uint8), torch.zeros(4, 64, 3)])
def test_half_of_a_matrix_is_refused_by_name(folder: Path, scales: torch.Tensor | None) -> None:
    change(folder, f"{EXPERTS}.down_proj_scales", scales)
    with pytest.raises(CheckpointError, match=r"down_proj_scales|are no matrices in MXFP4") as caught:
        Checkpoint(folder)
    assert "\n" not in str(caught.value)
