"""The config for onnxruntime-genai: only keys and types it knows. The package itself runs in tests/test_genai.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import BitNetConfig, Gemma3TextConfig, LlamaConfig, Qwen2Config

from export.level import missing_files
from export.manifest import ModelShape, Vocabulary, read_manifest
from export.request import ExportJob, ExportRequest
from export.sources.targets import resolve
from export.tasks import make_tasks
from export.writer.genai_config import make_genai_config

SHAPE = ModelShape(2, 64, 128, 4, 2, 16, 264, 512)
VOCABULARY = Vocabulary(259, "", (258, 256), 257)
# What genai 0.18 reads; any other key makes it refuse the file.
KNOWN = {
    "": {"model", "search"},
    "model": {
        "type",
        "vocab_size",
        "context_length",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "decoder",
    },
    "decoder": {
        "filename",
        "head_size",
        "hidden_size",
        "inputs",
        "num_attention_heads",
        "num_hidden_layers",
        "num_key_value_heads",
        "outputs",
        "session_options",
    },
    "inputs": {"input_ids", "attention_mask", "position_ids", "past_key_names", "past_value_names"},
    "outputs": {"logits", "present_key_names", "present_value_names"},
    "session_options": {"log_id", "provider_options"},
    "search": {"max_length", "do_sample", "past_present_share_buffer"},
}


def _keys(name: str, value: Any) -> None:
    if isinstance(value, dict):
        assert set(value) <= KNOWN[name], name
        for key, item in value.items():
            _keys(key, item)


@pytest.mark.parametrize(
    ("config", "kind"),
    [(LlamaConfig(), "llama"), (Qwen2Config(), "qwen2"), (Gemma3TextConfig(), "gemma3_text")],
)
def test_only_known_keys_and_the_family_s_type(config: Any, kind: str) -> None:
    made = make_genai_config(config, SHAPE, VOCABULARY, "model.onnx")
    assert made is not None
    _keys("", made)
    assert made["model"]["type"] == kind
    assert (made["model"]["vocab_size"], made["model"]["context_length"]) == (264, 512)
    assert made["model"]["decoder"]["num_key_value_heads"] == 2


def test_a_type_genai_does_not_know_gets_no_file() -> None:
    assert make_genai_config(BitNetConfig(), SHAPE, VOCABULARY, "model.onnx") is None


@pytest.mark.parametrize(("name", "has_type"), [("lfm2-350m", False), ("qwen3.5-0.8b", False), ("qwen3-0.6b", True)])
def test_an_export_says_when_there_is_no_file(name: str, has_type: bool, tmp_path: Path) -> None:
    job = ExportJob("target", name, ".", resolve(name), "int4")
    (task,) = make_tasks(ExportRequest(name, tmp_path, random_weights=True), [job])
    (tmp_path / "tokenizer.json").write_text("{}")
    kind = task.model.config.model_type
    line = f"{name}: no genai_config.json, since onnxruntime-genai has no type for {kind}"
    assert list(missing_files(task, tmp_path, tmp_path)) == ([] if has_type else [line])


def test_without_an_end_token_there_is_no_file() -> None:
    assert make_genai_config(LlamaConfig(), SHAPE, replace(VOCABULARY, eos_token_ids=()), "model.onnx") is None


def test_special_tokens() -> None:
    several = make_genai_config(LlamaConfig(pad_token_id=None), SHAPE, VOCABULARY, "model.onnx")
    one = make_genai_config(LlamaConfig(pad_token_id=7), SHAPE, Vocabulary(259, "", (258,)), "model.onnx")
    assert several is not None
    assert one is not None
    model = several["model"]
    assert (model["eos_token_id"], model["pad_token_id"], model["bos_token_id"]) == ([258, 256], 258, 257)
    assert (one["model"]["eos_token_id"], one["model"]["pad_token_id"]) == (258, 7)
    assert "bos_token_id" not in one["model"]


def test_the_file_names_what_is_in_the_bundle(tiny_bundle: Path) -> None:
    content = json.loads((tiny_bundle / "genai_config.json").read_text("utf-8"))
    target = read_manifest(tiny_bundle).target
    assert (tiny_bundle / content["model"]["decoder"]["filename"]).is_file()
    assert content["model"]["decoder"]["num_hidden_layers"] == target.shape.layers
    assert not (tiny_bundle / "drafters/tiny-drafter/genai_config.json").exists()
