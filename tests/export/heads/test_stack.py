"""Stacks of heads: they compute what was published, each format is known, what does not fit is refused, text stays."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3NextConfig

from export.heads.eagle3 import read_drafter_config
from export.heads.head import HeadError
from export.heads.stack_formats import head_stack
from export.heads.tensors import OpenedHead, open_head
from export.sources.opened import ModelOrigin
from export.sources.streamed_model import make_streamed
from export.sources.targets import resolve
from memory import Request
from runtime.decoding.sampling import SamplingParams
from runtime.engine import Engine
from runtime.speculation.request import PLAIN, Speculation
from tests.conftest import TinyModels
from tests.export.heads.tiny_stack import (
    HEADS,
    HYDRA,
    MEDUSA,
    SIZE,
    hydra_tensors,
    medusa_tensors,
    published,
    write_stack,
)
from tests.made_once import made_once

UNGROUNDED = {**HYDRA, "grounded_heads": False}


def opened(
    folder: Path, models: TinyModels, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], cut: Any = None
) -> OpenedHead:
    """The stack of a checkpoint with these fields and tensors, beside the tiny target."""
    write_stack(folder, config, tensors)
    target = AutoModelForCausalLM.from_pretrained(models.target).config
    head = head_stack(read_drafter_config(folder), target)
    return open_head(head, ModelOrigin(resolve(str(folder))), ModelOrigin(resolve(str(models.target))), cut)


def stack_logits(found: OpenedHead, row: torch.Tensor, tokens: list[int]) -> torch.Tensor:
    """The logits of every head, ``[heads, vocab]``, each row goes on with the last one's, as in the runtime."""
    module = make_streamed(found.head.config, found.source, lambda: found.head.build("eager"))
    features, own, rows = row[None], torch.zeros(1, 0, found.head.own_width), []
    with torch.inference_mode():
        for token in tokens:
            out = module(torch.tensor([[token]]), features, own)
            features, own = features[:, :0], out.hidden
            rows.append(out.logits[0])
    return torch.cat(rows)


@pytest.mark.parametrize(
    ("config", "tensors", "shared"),
    [
        (MEDUSA, medusa_tensors(), False),
        ({**MEDUSA, "medusa_num_layers": 2}, medusa_tensors(2), False),
        ({**MEDUSA, "version": "2"}, medusa_tensors(shared=True), True),
        (HYDRA, hydra_tensors(), False),
        (UNGROUNDED, hydra_tensors(False), False),
    ],
    ids=["medusa", "two layers", "version 2", "hydra", "ungrounded"],
)
def test_the_module_computes_what_was_published(
    config: Any, tensors: Any, shared: bool, tiny_models: TinyModels, tmp_path: Path
) -> None:
    found, tokens = opened(tmp_path / "stack", tiny_models, config, tensors), [3, 17, 99]
    target = AutoModelForCausalLM.from_pretrained(tiny_models.target)
    row = torch.randn(1, SIZE)
    with torch.no_grad():
        embedded = [target.model.embed_tokens(torch.tensor([token])) for token in tokens]
        output = target.lm_head.weight if shared else None
        expected = torch.cat(list(published(tensors, target.model.norm(row), embedded, output)))
        torch.testing.assert_close(stack_logits(found, row, tokens), expected, rtol=1e-4, atol=1e-4)
    assert (found.head.stack, found.head.together) == (HEADS, config is not HYDRA)


def test_all_rows_of_one_forward_are_those_of_their_heads(tiny_models: TinyModels, tmp_path: Path) -> None:
    found = opened(tmp_path / "stack", tiny_models, MEDUSA, medusa_tensors())
    module = make_streamed(found.head.config, found.source, lambda: found.head.build("eager"))
    row = torch.randn(1, SIZE)
    own = torch.cat([row.expand(HEADS, -1), torch.arange(HEADS)[:, None]], 1)[None]
    with torch.inference_mode():
        together = module(torch.zeros(1, HEADS, dtype=torch.int64), own[:, :0, :SIZE], own).logits[0]
    torch.testing.assert_close(together, stack_logits(found, row, [0] * HEADS))


def test_tensors_are_known_under_any_name_and_counted(tiny_models: TinyModels, tmp_path: Path) -> None:
    """Of the first releases the configuration counts two heads where there are five."""
    tensors = medusa_tensors(prefix="medusa_head.", heads=5)
    found = opened(tmp_path / "stack", tiny_models, {**MEDUSA, "medusa_num_heads": 2}, tensors)
    assert found.head.stack == 5


def test_output_matrices_are_cut_all_of_them(tiny_models: TinyModels, tmp_path: Path) -> None:
    kept = (1, 2, 5, 9, 200)
    for name, config, tensors in (("hydra", HYDRA, hydra_tensors()), ("medusa", MEDUSA, medusa_tensors(shared=True))):
        whole = opened(tmp_path / f"{name}-whole", tiny_models, config, tensors)
        cut = opened(tmp_path / name, tiny_models, config, tensors, kept)
        row = torch.randn(1, SIZE)
        logits = stack_logits(whole, row, [3, 4, 5])[:, list(kept)]
        torch.testing.assert_close(stack_logits(cut, row, [3, 4, 5]), logits)


@pytest.mark.parametrize(
    ("config", "tensors", "what"),
    [
        (
            MEDUSA,
            medusa_tensors(heads=2),
            "2 Medusa heads are there of the 3 that there should be, and number 2 is mis",
        ),
        (
            HYDRA,
            hydra_tensors(heads=1),
            "1 Hydra heads are there of the 3 that there should be, and number 1 is missing",
        ),
        (MEDUSA, {}, "0 Medusa heads are there of the 3"),
        ({**MEDUSA, "medusa_num_layers": 2}, medusa_tensors(), r"lacks 6 of its 12 tensors, 'layers.0.1.linear"),
        (MEDUSA, {k: v[:32] for k, v in medusa_tensors().items()}, r"wrong shape: '0.0.linear.weight' \[32, 64\]"),
        (
            MEDUSA,
            {k: v[:200] for k, v in medusa_tensors().items()},
            r"wrong shape: '0.1.weight' \[200, 64\].*\[264, 64\]",
        ),
        (
            {**MEDUSA, "medusa_num_heads": 65},
            {},
            "medusa_num_heads 65 in a configuration of Medusa heads; it is 1 to 64",
        ),
        ({**MEDUSA, "medusa_num_heads": "3"}, {}, "medusa_num_heads '3' in a configuration of Medusa heads"),
        ({**MEDUSA, "medusa_num_layers": 0}, {}, "Medusa heads of 0 layers, which are the target's own output matrix"),
        ({**HYDRA, "hydra_head_arch": "cross-attn"}, {}, "of the architecture 'cross-attn' are not supported"),
        (
            {**HYDRA, "hidden_state_offset": 3},
            {},
            "hidden_state_offset 3 in a configuration of Hydra heads; it is 0 to 2",
        ),
    ],
)
def test_what_is_no_stack_of_this_target_is_refused(
    config: Any, tensors: Any, what: str, tiny_models: TinyModels, tmp_path: Path
) -> None:
    tensors = {name: value.contiguous() for name, value in tensors.items()} or {"other": torch.zeros(1)}
    with pytest.raises(HeadError, match=what) as caught:
        opened(tmp_path / "stack", tiny_models, config, tensors)
    assert "\n" not in str(caught.value)


def test_targets_whose_norm_is_another_one_are_refused(tmp_path: Path) -> None:
    folder = write_stack(tmp_path / "stack", MEDUSA, medusa_tensors())
    with pytest.raises(
        HeadError, match=r"Medusa heads read the final norm's rows of llama, .*; qwen3_next is not supp"
    ):
        head_stack(read_drafter_config(folder), Qwen3NextConfig())


def test_rows_in_front_of_the_last_layers_are_read_without_the_norm() -> None:
    from export.heads.stack_formats import stack_config

    config = stack_config({**HYDRA, "hidden_state_offset": 1})
    assert config is not None
    head = head_stack(config, LlamaConfig(vocab_size=96, hidden_size=SIZE, num_hidden_layers=8, num_attention_heads=4))
    assert (head.reads, hasattr(head.build("eager"), "target_norm")) == ((7,), False)


@pytest.fixture(scope="module")
def engine(lowered_once: Any, tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An int4 bundle with heads of both kinds, open."""

    def make(folder: Path) -> None:
        from export.bundle import export_bundle
        from export.request import ExportRequest

        place = folder.with_name("stack-checkpoints")
        write_stack(place / "medusa", MEDUSA, medusa_tensors())
        write_stack(place / "hydra", HYDRA, hydra_tensors())
        drafters = str(place / "medusa"), str(place / "hydra")
        export_bundle(ExportRequest(str(tiny_models.target), folder, drafters=drafters))

    known = made_once(tmp_path_factory, "tiny-stack-int4", make)
    bundle = shutil.copytree(known, tmp_path_factory.mktemp("stack") / "bundle")
    with Engine.open(bundle, Request(threads=1, nodes=5)) as opened_engine:
        yield opened_engine


@pytest.mark.parametrize("sampling", [SamplingParams(), SamplingParams(temperature=0.9, seed=7)], ids=str)
@pytest.mark.parametrize("name", ["medusa", "hydra", "auto"])
def test_text_is_the_targets(name: str, engine: Engine, sampling: SamplingParams) -> None:
    def steps_of(speculation: Speculation) -> list[Any]:
        settings: dict[str, Any] = {"max_new_tokens": 30, "ignore_eos": True, "sampling": sampling}
        chunks = engine.generate("Once upon a time", speculation=speculation, **settings)
        return [chunk.step for chunk in chunks]

    steps = steps_of(Speculation(name, None if name == "auto" else HEADS + 1))
    assert [token for step in steps for token in step.tokens] == [
        token for step in steps_of(PLAIN) for token in step.tokens
    ]
    if name != "auto":
        assert max(step.num_drafted for step in steps) == HEADS


def test_the_manifest_says_what_they_are(engine: Engine) -> None:
    medusa, hydra = (engine.manifest.level(name) for name in ("medusa", "hydra"))
    assert (medusa.reads, hydra.reads, medusa.shape.layers, medusa.shape.kv_layers) == ((2,), (2,), 0, 0)
    assert medusa.heads is not None
    assert hydra.heads is not None
    assert (medusa.heads.count, medusa.heads.together, medusa.heads.own_hidden) == (HEADS, True, SIZE + 1)
    assert (hydra.heads.count, hydra.heads.together, hydra.heads.own_hidden) == (HEADS, False, 4 * SIZE + 1)


def test_the_plan_counts_their_bytes(engine: Engine) -> None:
    for planned in engine.plan.levels:
        level, parts = engine.manifest.level(planned.name), planned.footprint
        if level.heads is not None:
            rows = sum(array.nbytes for array in engine.drafters[planned.name].arrays["hidden rows"])
            assert (parts.part("hidden rows").anonymous, parts.part("KV cache").anonymous) == (rows, 0)
            weights = parts.part("weights")
            assert weights.hot + weights.anonymous >= level.weight_bytes - level.sparse_bytes
