"""EAGLE-3 heads beside enlarged targets: other shapes, the same drafts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from export.heads.eagle3 import eagle3_head, read_drafter_config
from export.heads.enlarged import EnlargedTensors, enlarged_head
from export.heads.head import Head, HeadError
from export.heads.tensors import HeadTensors
from export.manifest import PocketspecError
from export.sources.checkpoint import Checkpoint
from export.sources.random_weights import RandomWeights
from export.sources.streamed_model import make_streamed
from export.sources.timing_vehicle import Vehicle, VehicleError
from tests.export.heads.tiny_eagle import SIZE, VOCABULARY, eagle_tensors, specforge_config, write_eagle

TARGET = LlamaConfig(
    vocab_size=VOCABULARY,
    hidden_size=SIZE,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
LIKE = {"hidden": 384, "mlp": 160, "layers": 5, "heads": 12, "head_size": 48, "vocabulary": 400}


def opened(folder: Path, **fields: Any) -> tuple[Head, HeadTensors]:
    """A small head with these fields in its configuration, and its tensors."""
    folder = write_eagle(folder, specforge_config(**fields), eagle_tensors(2))
    head, checkpoint = eagle3_head(read_drafter_config(folder), TARGET), Checkpoint(folder)
    return head, HeadTensors(head, checkpoint, checkpoint)


def enlarged_target(like: dict[str, int]) -> Any:
    return Vehicle(RandomWeights(TARGET), TARGET, like).config


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("like", [LIKE, {"mlp": 128, "heads": 8}], ids=["all", "some"])
def test_an_enlarged_head_drafts_as_the_small_one(like: dict[str, int], norm_first: bool, tmp_path: Path) -> None:
    """Over rows of the target and then rows of its own; of added tokens it drafts none."""
    small, tensors = opened(tmp_path / "eagle", norm_before_residual=norm_first)
    large = enlarged_head(small, like, enlarged_target(like))
    width = large.config.hidden_size
    assert (large.reads, large.target_hidden) == (small.reads, width)
    modules = (
        make_streamed(small.config, tensors, lambda: small.build("eager")),
        make_streamed(large.config, EnlargedTensors(large, tensors), lambda: large.build("eager")),
    )
    ids, rows = torch.tensor([[3, 1, 4, 1, 5, 9]]), torch.randn(1, 6, 2, SIZE)
    wide = torch.nn.functional.pad(rows, (0, width - SIZE))
    given = [rows.flatten(2), wide.flatten(2)]
    own = [torch.zeros(1, 0, SIZE), torch.zeros(1, 0, width)]
    for _ in range(4):
        with torch.inference_mode():
            out = [module(ids, *read, use_cache=False) for module, *read in zip(modules, given, own, strict=True)]
        expected, found = (each.logits[0] for each in out)
        torch.testing.assert_close(found[:, :VOCABULARY], expected, rtol=1e-4, atol=1e-4)
        if found.shape[1] > VOCABULARY:
            assert float(found[:, VOCABULARY:].max()) < float(expected.min()) - 10
        ids = torch.cat((ids, expected[-1:].argmax(-1, keepdim=True)), 1)
        own = [torch.cat((before, each.hidden[:, -1:]), 1) for before, each in zip(own, out, strict=True)]


def test_rows_do_not_depend_on_what_else_is_read(tmp_path: Path) -> None:
    small, tensors = opened(tmp_path / "eagle")
    source = EnlargedTensors(enlarged_head(small, LIKE, enlarged_target(LIKE)), tensors)
    for name in source.names():
        whole = source.read(name)
        assert (whole.shape, whole.dtype) == (source.shape(name), np.float32)
        parts = [source.read(name, first, min(first + 130, len(whole))) for first in range(0, len(whole), 130)]
        assert np.array_equal(np.concatenate(parts), whole), name


def test_it_has_the_shape_of_a_head_of_a_known_target(tmp_path: Path) -> None:
    small, _ = opened(tmp_path / "eagle")
    shapes = enlarged_head(small, "qwen2-1.5b", enlarged_target({"hidden": 1536, "vocabulary": 151_936}))
    module: Any
    with torch.device("meta"):
        module = shapes.build("eager")
    sizes = {name: tuple(value.shape) for name, value in module.named_parameters()}
    assert sizes["fc.weight"] == (1536, 2 * 1536)
    assert sizes["lm_head.weight"] == (151_936, 1536)
    assert sizes["model.layers.0.mlp.up_proj.weight"] == (8960, 1536)
    assert sizes["model.layers.0.self_attn.q_proj.weight"] == (1536, 2 * 1536)
    assert not any(name.startswith("model.layers.1.") for name in sizes)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"attention_bias": True}, "this EAGLE-3 head cannot be enlarged: attention_bias is set"),
        ({"model_type": "qwen3"}, "an EAGLE-3 head of qwen3 layers cannot be enlarged exactly; expected llama"),
        ({"intermediate_size": 1000}, "mlp can only grow: 160 is less than the small model's 1000"),
    ],
)
def test_heads_that_do_not_fit_are_refused(fields: dict[str, Any], what: str, tmp_path: Path) -> None:
    folder = write_eagle(tmp_path / "eagle", specforge_config(**fields), {})
    with pytest.raises(PocketspecError, match=what) as caught:
        enlarged_head(eagle3_head(read_drafter_config(folder), TARGET), LIKE, enlarged_target(LIKE))
    assert isinstance(caught.value, HeadError | VehicleError)


def test_a_head_of_few_tokens_is_refused(tmp_path: Path) -> None:
    small = replace(opened(tmp_path / "eagle")[0], tokens=40)
    with pytest.raises(HeadError, match=r"draft vocabulary of 40 would cost too little .* of 400; enlarge a whole one"):
        enlarged_head(small, LIKE, enlarged_target(LIKE))
