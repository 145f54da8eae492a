"""EAGLE-3 heads: the module computes what was published, each format is known, and what does not fit is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from export.heads.eagle3 import eagle3_head, eagle3_name, is_eagle3, read_drafter_config
from export.heads.head import HeadError
from export.heads.tensors import HeadTensors, mapped_tokens
from export.sources.checkpoint import Checkpoint
from export.sources.streamed_model import make_streamed
from memory import Request
from runtime.decoding.sampling import SamplingParams
from runtime.engine import Engine
from runtime.speculation.request import PLAIN, Speculation
from tests.conftest import TinyModels
from tests.export.heads.tiny_eagle import (
    SIZE,
    VOCABULARY,
    eagle_tensors,
    specforge_config,
    speculators_config,
    write_eagle,
)
from tests.made_once import made_once

TARGET = LlamaConfig(vocab_size=VOCABULARY, hidden_size=SIZE, num_hidden_layers=2)


def opened(folder: Path, config: dict[str, Any], tensors: Mapping[str, torch.Tensor], target: Any = TARGET) -> Any:
    """The head of a checkpoint with these fields and tensors, and its tensors."""
    write_eagle(folder, config, dict(tensors))
    head, checkpoint = eagle3_head(read_drafter_config(folder), target), Checkpoint(folder)
    return head, HeadTensors(head, checkpoint, checkpoint), mapped_tokens(head, checkpoint)


def published(weights: Mapping[str, torch.Tensor], ids: Any, features: Any, norm_first: bool) -> torch.Tensor:
    """Logits from tensors named as SpecForge names them, written from the published description."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weights[f"{name}.weight"]

    def heads(x: torch.Tensor, name: str) -> torch.Tensor:
        return (x @ weights[f"midlayer.self_attn.{name}.weight"].T).unflatten(-1, (-1, 16)).transpose(1, 2)

    def rotate(x: torch.Tensor) -> torch.Tensor:
        angles = torch.arange(x.shape[2])[:, None] / 10000 ** (torch.arange(0, 16, 2) / 16)
        cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
        return x * cos + torch.cat((-x[..., 8:], x[..., :8]), -1) * sin

    hidden = features @ weights["fc.weight"].T
    normed = norm(hidden, "midlayer.hidden_norm")
    read = torch.cat((norm(weights["embed_tokens.weight"][ids], "midlayer.input_layernorm"), normed), -1)
    query, key, value = rotate(heads(read, "q_proj")), rotate(heads(read, "k_proj")), heads(read, "v_proj")
    key, value = key.repeat_interleave(2, 1), value.repeat_interleave(2, 1)
    attended = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    mixed = attended.transpose(1, 2).flatten(-2) @ weights["midlayer.self_attn.o_proj.weight"].T
    x = (normed if norm_first else hidden) + mixed
    inner = norm(x, "midlayer.post_attention_layernorm")
    gate, up = (inner @ weights[f"midlayer.mlp.{name}_proj.weight"].T for name in ("gate", "up"))
    x = x + (torch.nn.functional.silu(gate) * up) @ weights["midlayer.mlp.down_proj.weight"].T
    return norm(x, "norm") @ weights["lm_head.weight"].T


@pytest.mark.parametrize("norm_first", [False, True])
def test_the_module_computes_what_was_published(norm_first: bool, tmp_path: Path) -> None:
    tensors = eagle_tensors(2)
    config = specforge_config(norm_before_residual=norm_first)
    head, source, _ = opened(tmp_path / "eagle", config, tensors)
    ids, features = torch.tensor([[3, 1, 4, 1, 5, 9]]), torch.randn(1, 6, 2 * SIZE)
    module = make_streamed(head.config, source, lambda: head.build("eager"))
    with torch.inference_mode():
        found = module(ids, features, torch.zeros(1, 0, SIZE), use_cache=False).logits
    torch.testing.assert_close(found, published(tensors, ids, features, norm_first), rtol=1e-4, atol=1e-4)


def test_taps_are_counted_as_each_format_counts_them(tmp_path: Path) -> None:
    head, _, tokens = opened(tmp_path / "specforge", specforge_config(), eagle_tensors(2))
    assert (head.reads, tokens, head.architecture) == ((1, 2), None, "eagle3")
    head, _, _ = opened(tmp_path / "speculators", speculators_config(), eagle_tensors(3, layer="layers.0"))
    assert head.reads == (0, 1, 2)
    large = LlamaConfig(vocab_size=VOCABULARY, hidden_size=SIZE, num_hidden_layers=32)
    fields = {**specforge_config(), "eagle_config": None}
    assert opened(tmp_path / "default", fields, eagle_tensors(3), large)[0].reads == (2, 16, 29)


@pytest.mark.parametrize("name", ["LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM", "Eagle3Speculator"])
def test_heads_are_known_by_their_architecture(name: str) -> None:
    assert is_eagle3(LlamaConfig(architectures=[name]))
    assert not is_eagle3(LlamaConfig(architectures=["LlamaForCausalLM"]))


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("layer", ["midlayer", "layers.0"])
def test_tensors_are_known_under_any_name(prefix: str, layer: str) -> None:
    assert eagle3_name(f"{prefix}{layer}.hidden_norm.weight") == "model.layers.0.hidden_norm.weight"
    assert eagle3_name(f"{prefix}norm.weight") == "final_norm.weight"
    assert eagle3_name("t2d") is None


def test_a_draft_vocabulary_is_read(tmp_path: Path) -> None:
    _, source, tokens = opened(tmp_path / "eagle", specforge_config(40), eagle_tensors(2, 40))
    assert tokens == tuple(2 * place + place % 2 for place in range(40))
    assert source.shape("lm_head.weight") == (40, SIZE)


@pytest.mark.parametrize(
    ("offsets", "what"),
    [
        (torch.zeros(40, dtype=torch.int64) - 1, "tokens from -1"),
        (torch.full((40,), VOCABULARY), r"to 303; 40 columns must have tokens below 264"),
        (torch.zeros(40, dtype=torch.int64).index_fill(0, torch.tensor([5]), -1), "each another one"),
        (torch.zeros(39, dtype=torch.int64), r"maps \[39\] columns"),
        (torch.zeros(40), r"'d2t' in .* is F32 \[40\], expected I64 or I32"),
        (None, "no tensor 'd2t' that says of which"),
    ],
)
def test_draft_vocabularies_that_are_none_are_refused(offsets: Any, what: str, tmp_path: Path) -> None:
    tensors = {**eagle_tensors(2, 40), **({} if offsets is None else {"d2t": offsets})}
    if offsets is None:
        del tensors["d2t"]
    with pytest.raises(ValueError, match=what):
        opened(tmp_path / "eagle", specforge_config(40), tensors)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"target_hidden_size": 96}, "made for hidden rows of 96, and the target has 64; name another"),
        ({"vocab_size": 300}, "made for tokens of 300, and the target has 264"),
        ({"num_hidden_layers": 2}, "the EAGLE-3 head has 2 layers; one is supported"),
        ({"norm_before_fc": True}, "of the variant norm_before_fc, which is not supported"),
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 2]}}, r"after layers \[1, 3\] of 2; it is of anoth"),
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": ["x"]}}, r"after layers \['x'\] of 2"),
    ],
)
def test_heads_of_other_targets_are_refused(fields: dict[str, Any], what: str, tmp_path: Path) -> None:
    with pytest.raises(HeadError, match=what):
        opened(tmp_path / "eagle", specforge_config(**fields), eagle_tensors(2))


def test_half_a_head_and_one_of_another_width_are_refused(tmp_path: Path) -> None:
    some = {name: value for name, value in eagle_tensors(2).items() if "mlp" not in name}
    with pytest.raises(HeadError, match=r"lacks 3 of its 14 tensors, 'model\.layers.0.mlp.gate_proj.weight' first"):
        opened(tmp_path / "half", specforge_config(), some)
    with pytest.raises(HeadError, match=r"wrong shape: 'fc.weight' \[64, 192\].* expects \[64, 128\]"):
        opened(tmp_path / "wide", specforge_config(), eagle_tensors(3))


def test_other_speculators_are_refused(tmp_path: Path) -> None:
    folder = write_eagle(tmp_path / "x", speculators_config(speculators_model_type="dflash"), {})
    with pytest.raises(HeadError, match="speculators of the kind 'dflash' over 'llama' layers are not known"):
        read_drafter_config(folder)


def test_configurations_of_nonsense_are_refused(tmp_path: Path) -> None:
    layer = {**speculators_config()["transformer_layer_config"], "hidden_size": "wide"}
    folder = write_eagle(tmp_path / "x", speculators_config(transformer_layer_config=layer), {})
    with pytest.raises(HeadError, match=r"transformers cannot read the configuration in .*config\.json: "):
        read_drafter_config(folder)


@pytest.fixture(scope="module")
def engine(lowered_once: Any, tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An int4 bundle with a head of speculators' format that has a draft vocabulary, open."""

    def make(folder: Path) -> None:
        from export.bundle import export_bundle
        from export.request import ExportRequest

        place = folder.with_name("eagle-checkpoint") / "eagle"
        write_eagle(place, speculators_config(40), eagle_tensors(3, 40, "layers.0"))
        export_bundle(ExportRequest(str(tiny_models.target), folder, drafters=(str(place),)))

    known = made_once(tmp_path_factory, "tiny-eagle-int4", make)
    bundle = shutil.copytree(known, tmp_path_factory.mktemp("eagle") / "bundle")
    with Engine.open(bundle, Request(threads=1, nodes=5, shape="tree")) as opened_engine:
        yield opened_engine


@pytest.mark.parametrize("sampling", [SamplingParams(), SamplingParams(temperature=0.9, seed=7)], ids=str)
def test_text_is_the_targets_and_drafts_are_of_the_draft_vocabulary(engine: Engine, sampling: SamplingParams) -> None:
    def tokens_of(speculation: Speculation) -> list[int]:
        settings: dict[str, Any] = {"max_new_tokens": 30, "ignore_eos": True, "sampling": sampling}
        chunks = engine.generate("Once upon a time", speculation=speculation, **settings)
        return [token for chunk in chunks for token in chunk.step.tokens]

    plain = tokens_of(PLAIN)
    assert tokens_of(Speculation("eagle", 4)) == plain
    assert tokens_of(Speculation("eagle", 5, "tree")) == plain
    head = engine.drafters["eagle"]
    assert head.logit_tokens is not None
    assert head.cache.length > 20
    assert np.diff(head.logit_tokens).min() > 0


def test_rules_that_need_distributions_take_its_trees(engine: Engine) -> None:
    speculation = Speculation("eagle", 5, "tree", acceptance="recursive")
    sampling = SamplingParams(temperature=0.9, seed=7)
    chunks = engine.generate("Hi", max_new_tokens=20, ignore_eos=True, sampling=sampling, speculation=speculation)
    assert max(chunk.step.num_drafted for chunk in chunks) == 4  # two chains of two


def test_the_manifest_says_what_it_reads(engine: Engine) -> None:
    level = engine.manifest.level("eagle")
    assert (level.reads, engine.manifest.target.taps, level.logits_width) == ((0, 1, 2), (0, 1, 2), 40)
