"""The streamed reference is the HF model: same code, same weights, no parameters in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import ApertusConfig, AutoModelForCausalLM, Gemma2Config, LlamaConfig, Phi3Config, Qwen2Config

from export.sources import streamed_model as streamed
from export.sources.streamed_model import make_streamed, reference_logits
from export.sources.tensor_source import FloatArray

SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
CONFIGS = {
    "tied head": LlamaConfig(**SMALL, tie_word_embeddings=True),
    "own head": LlamaConfig(**SMALL, tie_word_embeddings=False),
    "biases": Qwen2Config(**SMALL),
    "scaled embedding, softcaps, windows": Gemma2Config(**SMALL, head_dim=8, sliding_window=4, query_pre_attn_scalar=8),
    "packed projections": Phi3Config(**SMALL),
    "stored buffers": ApertusConfig(**SMALL),
}


class StateDict:
    """A TensorSource over a model in memory that notes the most rows it was asked for."""

    def __init__(self, model: Any) -> None:
        tensors = {name: value.detach() for name, value in model.named_parameters()}
        tensors |= {name: value for name, value in model.named_buffers() if name in model.state_dict()}
        self.tensors = {name: np.asarray(value.float().numpy()) for name, value in tensors.items()}
        self.largest_read = 0

    def names(self) -> Any:
        return self.tensors.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def read(self, name: str, first: int = 0, last: int | None = None) -> FloatArray:
        tensor = self.tensors[name]
        rows = tensor[first:last].copy() if tensor.shape else tensor
        self.largest_read = max(self.largest_read, rows.nbytes)
        return rows


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_the_model_in_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "TILE_BYTES", 20 * 32 * 4)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation="eager").eval()
    for stored in (buffer for key, buffer in model.named_buffers() if key in model.state_dict()):
        stored.add_(0.25)  # a checkpoint's own
    tokens = [1, 5, 9, 5, 77, 30, 2, 8, 95, 11]
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0].numpy()
    source = StateDict(model)
    logits = reference_logits(CONFIGS[name], source, tokens)
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()
    assert source.largest_read <= 20 * 32 * 4


def test_the_model_holds_no_parameters() -> None:
    model = AutoModelForCausalLM.from_config(CONFIGS["biases"])
    streamed_model = make_streamed(CONFIGS["biases"], StateDict(model))
    reference = streamed_model(input_ids=torch.tensor([[1, 2, 3]]))
    assert reference.logits.shape == (1, 3, 96)
    weights = [p for name, p in streamed_model.named_parameters() if "embed" not in name]
    assert weights
    assert all(parameter.is_meta for parameter in weights)
    assert torch.nn.Linear(2, 2).weight.device.type == "cpu"
