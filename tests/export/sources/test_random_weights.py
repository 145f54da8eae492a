"""Random weights: a real model's tensors, reproducible rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Qwen2Config

from export.sources.random_weights import RandomWeights

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 300,
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config, Gemma3TextConfig])
def test_names_and_shapes_are_those_of_the_model(kind: type, tied: bool) -> None:
    config = kind(**SIZES, tie_word_embeddings=tied)
    weights = RandomWeights(config)
    model = AutoModelForCausalLM.from_config(config)
    assert ("lm_head.weight" in weights.names()) != tied
    state = {name: torch.from_numpy(weights.read(name)) for name in weights.names()}
    missing = model.load_state_dict(state, strict=False)
    assert missing.unexpected_keys == []
    assert missing.missing_keys == (["lm_head.weight"] if tied else [])
    assert {name: weights.shape(name) for name in state} == {name: tuple(value.shape) for name, value in state.items()}
    assert sum(math.prod(weights.shape(name)) for name in weights.names()) == model.num_parameters()


def test_rows_do_not_depend_on_what_else_is_read() -> None:
    config = Qwen2Config(**SIZES)
    weights, again = RandomWeights(config), RandomWeights(config)
    for name in weights.names():
        whole = weights.read(name)
        last = len(whole) // 2
        assert np.array_equal(again.read(name, last - 7, last), whole[last - 7 : last])
        assert np.array_equal(again.read(name, last), whole[last:])
        assert whole.dtype == np.float32


def test_seeds_tensors_and_rows_differ() -> None:
    config = LlamaConfig(**SIZES)
    weights = RandomWeights(config)
    first = weights.read("model.layers.0.mlp.up_proj.weight")
    assert not np.array_equal(first, weights.read("model.layers.1.mlp.up_proj.weight"))
    assert not np.array_equal(first, RandomWeights(config, seed=1).read("model.layers.0.mlp.up_proj.weight"))
    assert len(np.unique(first[:, 0])) == len(first)


def test_values_have_the_scale_of_trained_ones() -> None:
    weights = RandomWeights(LlamaConfig(**SIZES, initializer_range=0.03))
    embedding = weights.read("model.embed_tokens.weight")
    assert embedding.std() == pytest.approx(0.03, rel=0.1)
    assert abs(embedding.mean()) < 0.003
    assert np.all(weights.read("model.norm.weight") == 1)
    assert np.all(RandomWeights(Gemma3TextConfig(**SIZES)).read("model.norm.weight") == 0)
