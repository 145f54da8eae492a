"""What rounding a kind of matrix costs: nothing where int4 is exact, and the model is as it was afterwards."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3_5TextConfig

from export.distill.corpus import Corpus
from export.distill.measure import text_perplexity
from export.distill.precision import markdown, measure_precision

TEXT = Corpus(np.random.default_rng(0).integers(0, 64, 96).astype(np.uint16), np.array([0, 48]))


@pytest.fixture(scope="module")
def model() -> Any:
    """A random hybrid with one layer of either kind. Its ``o_proj`` has values that int4 holds exactly."""
    torch.manual_seed(0)
    config = Qwen3_5TextConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        layer_types=["linear_attention", "full_attention"],
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        linear_num_key_heads=1,
        linear_num_value_heads=2,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    made = AutoModelForCausalLM.from_config(config).float().eval()
    weight = made.model.layers[1].self_attn.o_proj.weight
    weight.data = torch.randint(-1, 2, weight.shape).float()
    return made


def test_every_kind_is_rounded_by_itself(model: Any) -> None:
    before = copy.deepcopy(model.state_dict())
    found = measure_precision(model, TEXT, block_size=32, conversations=2)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert found.tokens == 94
    assert found.perplexity == pytest.approx(text_perplexity(model, TEXT, conversations=2))
    by_kind = {one.kind: one for one in found.kinds}
    recurrent = {"in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "conv1d", "out_proj"}
    attention, mlp = {"q_proj", "k_proj", "v_proj", "o_proj"}, {"gate_proj", "up_proj", "down_proj"}
    assert by_kind.keys() == recurrent | attention | mlp | {"embed_tokens", "all"}
    assert by_kind["o_proj"].loss[4] == 0 == by_kind["o_proj"].margin[4]
    assert all(one.margin[4] > one.margin[8] for one in found.kinds if one.kind != "o_proj")
    assert by_kind["embed_tokens"].parameters == 64 * 32  # the head is the same matrix
    assert found.kinds[-1].parameters == sum(one.parameters for one in found.kinds[:-1])


def test_the_page_has_a_line_for_every_kind(model: Any) -> None:
    found = measure_precision(model, TEXT, block_size=16, conversations=1)
    lines = list(markdown(found))
    assert [line.split(" | ")[0] for line in lines[5:]] == [f"| {one.kind}" for one in found.kinds]
    assert lines[-1].startswith("| all | 100.00% |")
