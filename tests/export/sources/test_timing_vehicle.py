"""Timing vehicles: other shapes, the same tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitNetConfig,
    LlamaConfig,
    Qwen2Config,
    Qwen3_5TextConfig,
)

from export.sources.checkpoint import Checkpoint
from export.sources.random_weights import RandomWeights
from export.sources.timing_vehicle import Vehicle
from export.sources.vehicle_sizes import VehicleError, sizes_of
from tests.places import ROOT, SHARED

LIKE = {"hidden": 512, "mlp": 640, "heads": 16, "kv_heads": 2, "head_size": 32, "vocabulary": 700}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Many small products: threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def load(config: Any, source: RandomWeights | Checkpoint | Vehicle) -> Any:
    """The transformers model of ``config`` with the tensors of ``source``."""
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    state = {name: torch.from_numpy(source.read(name)) for name in source.names()}
    missing = model.load_state_dict(state, strict=False)
    assert missing.unexpected_keys == []
    assert missing.missing_keys == ["lm_head.weight"]
    return model.eval()


def check_same(small: Any, large: Any, tokens: torch.Tensor, tolerance: float = 1e-4) -> None:
    """Equal logits for the old vocabulary, and no chance for the tokens added to it."""
    old = small.config.vocab_size
    with torch.no_grad():
        expected, actual = small(tokens).logits, large(tokens).logits
    torch.testing.assert_close(actual[..., :old], expected, atol=tolerance, rtol=0)
    assert torch.equal(actual.argmax(-1), expected.argmax(-1))
    if actual.shape[-1] > old:
        assert float(actual[..., old:].max()) < float(expected.min()) - 10


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("stories260k", {**LIKE, "layers": 7}),
        ("stories260k", {"hidden": 128, "mlp": 192, "head_size": 16}),  # what the attention operator asks for
        ("bitllama-1m", {**LIKE, "layers": 10}),
        ("bitllama-3m", {**LIKE, "layers": 9}),
    ],
)
def test_a_real_model_says_the_same_when_enlarged(name: str, like: Mapping[str, int]) -> None:
    folder = SHARED / "models" / name
    if not folder.is_dir():
        pytest.skip("no shared models")
    text = (SHARED / "eval" / "tinystories.txt").read_text()[:700]
    tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
    config = AutoConfig.from_pretrained(folder)
    vehicle = Vehicle(Checkpoint(folder), config, like)
    small, large = load(config, Checkpoint(folder)), load(vehicle.config, vehicle)
    assert large.num_parameters() > small.num_parameters()
    check_same(small, large, tokens)
    continued = [model.generate(tokens[:, :20], max_new_tokens=20, do_sample=False) for model in (small, large)]
    assert torch.equal(*continued)


@pytest.mark.parametrize("kind", [LlamaConfig, BitNetConfig])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_random_models_say_the_same_when_enlarged(kind: type, kv_heads: int) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = kind(**sizes, num_key_value_heads=kv_heads, vocab_size=50, tie_word_embeddings=True, initializer_range=0.1)
    source = RandomWeights(config)
    like = {"hidden": 384, "mlp": 128, "layers": 3, "heads": 12, "head_size": 32, "vocabulary": 90}
    if kind is LlamaConfig:
        like["head_size"] = 48  # wider than the stream, as in Qwen3
    vehicle = Vehicle(source, config, like)
    tokens = torch.randint(0, 50, (1, 40), generator=torch.Generator().manual_seed(0))
    check_same(load(config, source), load(vehicle.config, vehicle), tokens)


HYBRID = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
    "vocab_size": 50,
    "tie_word_embeddings": True,
    "initializer_range": 0.1,
    "rms_norm_eps": 1e-20,  # so that one epsilon for norms of all widths changes nothing
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.5,
        "mrope_section": [2, 1, 1],
    },
}
GROWN = {
    "hidden_size": 384,
    "intermediate_size": 128,
    "num_hidden_layers": 8,
    "num_attention_heads": 12,
    "num_key_value_heads": 3,
    "head_dim": 32,
    "linear_num_key_heads": 6,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 40,
    "vocab_size": 90,
}


def test_a_hybrid_says_the_same_when_enlarged(tmp_path: Path) -> None:
    config = Qwen3_5TextConfig(**HYBRID)
    Qwen3_5TextConfig(**GROWN).save_pretrained(tmp_path)
    source = RandomWeights(config)
    vehicle = Vehicle(source, config, str(tmp_path))
    assert vehicle.config.layer_types == config.layer_types * 2
    assert vehicle.config.linear_num_key_heads == 3  # with six, its groups of two would not fit
    tokens = torch.randint(0, 50, (1, 80), generator=torch.Generator().manual_seed(0))
    # Norms of small numbers inside of heads: logits of up to 12 differ by 0.001, and by 0.00003 in float64.
    check_same(load(config, source), load(vehicle.config, vehicle), tokens, tolerance=2e-3)
    check_rows(vehicle)


def test_rows_do_not_depend_on_what_else_is_read() -> None:
    config = LlamaConfig(**SMALL)
    check_rows(Vehicle(RandomWeights(config), config, {"hidden": 320, "heads": 8, "layers": 3, "vocabulary": 90}))


def check_rows(vehicle: Vehicle) -> None:
    """Any rows of a tensor are those of the whole."""
    for name in vehicle.names():
        whole = vehicle.read(name)
        assert whole.shape == vehicle.shape(name)
        assert whole.dtype == np.float32
        for first in range(0, len(whole), 33):
            last = min(first + 33, len(whole))
            assert np.array_equal(vehicle.read(name, first, last), whole[first:last])


@pytest.mark.parametrize("like", ["qwen2-0.5b", "qwen2-1.5b", "qwen2-7b", "llama-3.2-3b", "qwen3-4b", "smollm2-1.7b"])
def test_a_known_name_gives_its_sizes(like: str) -> None:
    config = LlamaConfig(**SMALL)
    vehicle = Vehicle(RandomWeights(config), config, like, positions=32_768)
    sizes, known = sizes_of(vehicle.config), sizes_of(AutoConfig.from_pretrained(CONFIGS / f"{like}.json"))
    assert vehicle.config.max_position_embeddings == 32_768
    assert sizes.kv_heads >= 2
    assert sizes.heads % sizes.kv_heads == 0
    assert vars(sizes) | {"kv_heads": 0} == vars(known) | {"kv_heads": 0}


CONFIGS = ROOT / "export" / "configs"
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 50,
    "tie_word_embeddings": True,
}
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 2.0, "original_max_position_embeddings": 1024}


@pytest.mark.parametrize(
    ("config", "like", "message"),
    [
        (Qwen2Config(**SMALL), {}, "a qwen2 model cannot be enlarged exactly; expected llama, bitnet or qwen3_5_text"),
        (LlamaConfig(**SMALL | {"tie_word_embeddings": False}), {}, "its head is not tied"),
        (LlamaConfig(**SMALL, attention_bias=True), {}, "attention_bias is set"),
        (LlamaConfig(**SMALL, rope_parameters=YARN), {}, "a yarn rotary embedding depends on the head size"),
        (LlamaConfig(**SMALL), {"hidden": 32}, "hidden can only grow: 32 is less than the small model's 64"),
        (LlamaConfig(**SMALL), {"head_size": 24}, "head_size 24 is not a multiple of 16"),
        (LlamaConfig(**SMALL), {"heads": 5}, "5 heads cannot hold 4 heads in 2 groups"),
        (LlamaConfig(**SMALL), {"vocabulary": 90}, "a larger vocabulary needs room: hidden 64 must be 320 or more"),
        (LlamaConfig(**SMALL), {"width": 90}, "no size 'width'; the sizes are: hidden, mlp, layers, heads"),
        (LlamaConfig(**SMALL), "owner/model", "the sizes of 'owner/model' are not at hand"),
        (Qwen3_5TextConfig(**HYBRID), "qwen2-1.5b", "qwen2-1.5b has no recurrent states to size those of a hybrid by"),
        (BitNetConfig(**SMALL), {"hidden": 96}, "heads \\* head_size must be hidden for BitNet: 4 \\* 16"),
    ],
)
def test_what_does_not_fit_is_refused(config: Any, like: Any, message: str) -> None:
    with pytest.raises(VehicleError, match=message) as caught:
        Vehicle(RandomWeights(config), config, like)
    assert "\n" not in str(caught.value)
