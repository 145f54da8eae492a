"""PARD-2: every row has the hidden rows of the position before its token; a checkpoint works with and without them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig

from export.heads.head import HeadError
from export.heads.pard2 import has_projection, pard2_head
from export.manifest import ParallelDrafts
from memory import Request
from runtime.decoding.draft import chain_limit
from runtime.decoding.sampling import SamplingParams
from runtime.drafters.parallel import ParallelDrafter
from runtime.drafters.prediction_head import HeadReader
from runtime.engine import Engine
from runtime.speculation.request import PLAIN, Speculation
from tests.conftest import TinyModels
from tests.export.heads.tiny_pard2 import MASK, VOCABULARY, pard2_config, write_pard2
from tests.made_once import made_once
from tests.runtime.levels import context_of

TEXT = [5, 17, 33, 99, 5, 64, 200, 31, 8, 120, 44]
TARGET = LlamaConfig(vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint; read-only."""
    return write_pard2(tmp_path_factory.mktemp("pard2") / "pard2")


@pytest.fixture(scope="module")
def bundle(
    lowered_once: Any, checkpoint: Path, tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An fp32 target with the drafter, which reads its hidden rows."""

    def make(folder: Path) -> None:
        from export.bundle import export_bundle
        from export.request import ExportRequest

        export_bundle(ExportRequest(str(tiny_models.target), folder, "fp32", drafters=(str(checkpoint),)))

    known = made_once(tmp_path_factory, "tiny-pard2-fp32", make)
    return Path(shutil.copytree(known, tmp_path_factory.mktemp("pard2") / "bundle"))


def published(target: Path, checkpoint: Path, text: list[int], count: int, shift: int = 1) -> list[int]:
    """A draft as PARD-2's own code makes it; ``shift`` 1 is right: token t beside the hidden states of t - 1."""
    big, small = (AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (target, checkpoint))
    weight = load_file(checkpoint / "warp_model.safetensors")["target_proj.weight"]
    with torch.inference_mode():
        states = big(torch.tensor([text]), output_hidden_states=True).hidden_states
        features = torch.cat([states[place] for place in small.config.pard2_target_layers], -1)[0]
        rows = torch.zeros_like(features)
        rows[shift:] = features[: len(text) - shift]
        rows = torch.cat([rows, rows[-1:].expand(count - 1, -1)])
        ids = torch.tensor([text + [MASK] * (count - 1)])
        given = small.get_input_embeddings()(ids) + small.config.pard2_scale * (rows @ weight.T)
        return [int(token) for token in small(inputs_embeds=given).logits[0, -count:].argmax(-1)]


def drafts(engine: Engine, text: list[int], count: int) -> list[int]:
    """What the drafter of ``engine`` drafts, of a text that the target has read."""
    engine.target.cache.rollback(0)
    places = np.arange(64)
    reader = HeadReader(engine.drafters["pard2"], engine.target.cache, np.concatenate([places + 64, places]), first=0)
    engine.target.prefill(text[:-1])
    drafter = ParallelDrafter(reader.model, ParallelDrafts(MASK, 12), VOCABULARY, reader=reader)
    return list(drafter.propose(context_of(text, SamplingParams()), chain_limit(count)).tokens)


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Iterator[Engine]:
    """The bundle, open."""
    with Engine.open(bundle, Request(threads=1, nodes=5)) as opened:
        yield opened


@pytest.mark.parametrize("text", [TEXT, TEXT[:3], TEXT[:2]], ids=len)
def test_drafts_are_those_of_pard2_and_not_of_rows_off_by_one(
    engine: Engine, text: list[int], tiny_models: TinyModels, checkpoint: Path
) -> None:
    """The first token is there, beside zeros; a shift by one is nearly invisible on some checkpoints."""
    found = drafts(engine, text, 5)
    assert found == published(tiny_models.target, checkpoint, text, 5)
    assert found != published(tiny_models.target, checkpoint, text, 5, shift=0)
    if len(text) > 2:
        assert found != published(tiny_models.target, checkpoint, text, 5, shift=2)


@pytest.mark.parametrize("sampling", [SamplingParams(), SamplingParams(temperature=0.9, seed=7)], ids=str)
def test_text_is_the_targets(engine: Engine, sampling: SamplingParams) -> None:
    def tokens_of(speculation: Speculation) -> list[int]:
        settings: dict[str, Any] = {"max_new_tokens": 30, "ignore_eos": True, "sampling": sampling}
        chunks = engine.generate("Once upon a time", speculation=speculation, **settings)
        return [token for chunk in chunks for token in chunk.step.tokens]

    plain = tokens_of(PLAIN)
    assert tokens_of(Speculation("pard2", 4)) == plain
    held = engine.drafters["pard2"].cache.tokens.tolist()  # from the first token on
    assert held == engine.target.cache.tokens[: len(held)].tolist()
    assert len(held) > 20


def test_the_manifest_says_that_it_drafts_in_parallel_and_what_it_reads(engine: Engine) -> None:
    level = engine.manifest.level("pard2")
    assert (level.reads, level.parallel, level.first_token) == ((2, 1), ParallelDrafts(MASK, 12), 0)
    assert [method.name for method in engine.decoding_methods() if "pard2" in method.name] == ["pard2-chain"]


def test_without_its_projection_it_is_a_drafter_by_itself(checkpoint: Path, tmp_path: Path) -> None:
    assert has_projection(pard2_config(), checkpoint)
    assert not has_projection(pard2_config(), tmp_path)
    assert not has_projection(LlamaConfig(), checkpoint)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pard2_target_dim": 512}, "made for hidden rows of 512, and the target has 128; name another, or delete"),
        ({"pard2_target_layers": [-1, -24]}, r"reads hidden states \[-1, -24\] of a target of 2 layers; name another"),
        ({"pard2_target_layers": [-1, -1]}, r"reads hidden states \[-1, -1\]"),
        ({"pard2_target_layers": "all"}, "reads hidden states 'all'"),
        ({"pard2_proj_bias": True}, r"projection has a bias \(pard2_proj_bias\), which is not supported"),
        ({"model_type": "gemma2"}, "a PARD-2 drafter of gemma2 layers for llama; supported are llama, qwen2, qwen3"),
    ],
)
def test_drafters_of_other_targets_are_refused(fields: dict[str, Any], message: str) -> None:
    config = pard2_config()
    for name, value in fields.items():
        setattr(config, name, value)
    with pytest.raises(HeadError, match=message) as caught:
        pard2_head(config, TARGET)
    assert "\n" not in str(caught.value)
