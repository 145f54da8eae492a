"""PARD-2 in training: rows read what they read when drafting, and count as much as they are likely to be needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from export.distill.commands import main
from export.distill.lessons import save_lessons
from export.distill.parallel import draw_rows
from export.distill.pard2 import Pard2Objective, Pard2Student, survival
from export.distill.tokenizer import save_tokenizer, train_tokenizer
from export.heads.pard2 import has_projection, pard2_head
from export.manifest import ParallelDrafts, PocketspecError
from export.sources.parallel_drafts import parallel_drafts
from tests.export.distill.test_parallel import CONFIG, MASK, _cycle, _model

TARGET = LlamaConfig(**{**CONFIG.to_dict(), "hidden_size": 64, "num_hidden_layers": 3})


@pytest.fixture
def made() -> tuple[Pard2Student, Pard2Objective]:
    """A student with a projection that matters, and its objective."""
    torch.manual_seed(1)
    target = AutoModelForCausalLM.from_config(TARGET).eval()
    student = Pard2Student(_model(), target, MASK, 4)
    torch.nn.init.normal_(student.model.target_proj.weight, std=3)
    return student.eval(), Pard2Objective(_cycle(), target, MASK, 4)


def test_a_row_gives_what_a_forward_over_the_text_and_masks_gives(made: tuple[Any, Pard2Objective]) -> None:
    """The hidden rows beside a draft's rows are those before each token; masks have the newest."""
    (student, task), rows = made, draw_rows(np.random.default_rng(0), 12, 4)
    text = torch.arange(3, 15)[None]
    with torch.inference_mode():
        features = task.features(student, text)
        logits = task.logits(student, rows, text, features)[0]
        states = task.target(text, output_hidden_states=True).hidden_states
        wanted = torch.cat([states[place] for place in student.config.pard2_target_layers], -1)
        normed = torch.cat([task.target.model.norm(features[..., :64]), features[..., 64:]], -1)
        torch.testing.assert_close(normed, wanted)
        embed, project = student.model.get_input_embeddings(), student.model.target_proj
        (decoder,) = student._decoder
        for row, (block, place) in enumerate(zip(rows.blocks.tolist(), rows.places.tolist(), strict=True)):
            known = place - block + 1
            beside = torch.cat([torch.zeros_like(wanted[:, :1]), wanted], 1)[:, :known]
            beside = torch.cat([beside, beside[:, -1:].expand(-1, block, -1)], 1)
            fed = torch.cat([text[:, :known], torch.full((1, block), MASK)], 1)
            alone = decoder(inputs_embeds=embed(fed) + 0.02 * project(beside), use_cache=False).logits[0, -1]
            torch.testing.assert_close(logits[row], alone, atol=1e-4, rtol=1e-3)


def test_a_row_counts_as_much_as_its_draft_is_likely_to_get_there() -> None:
    rng = np.random.default_rng(0)
    rows, tokens = draw_rows(rng, 10, 4), rng.integers(0, 6, (2, 10))
    ids = np.argsort(rng.random((2, 10, 6)), -1)[..., :4]
    probs = rng.random((2, 10, 4)).astype(np.float32)
    weights = survival(rows, tokens, ids, probs)
    for text in range(2):
        for row, (block, place) in enumerate(zip(rows.blocks.tolist(), rows.places.tolist(), strict=True)):
            wanted = 1.0
            for position in range(place - block + 1, place + 1):
                found = np.flatnonzero(ids[text, position - 1] == tokens[text, position])
                wanted *= float(probs[text, position - 1, found[0]]) if len(found) else 0.0
            assert weights[text, row] == pytest.approx(wanted, rel=1e-5)


def test_the_command_writes_one_checkpoint_for_both_uses(tmp_path: Path) -> None:
    teacher, output = tmp_path / "teacher", tmp_path / "pard2"
    AutoModelForCausalLM.from_config(TARGET).save_pretrained(teacher)
    _model().save_pretrained(tmp_path / "start")
    for folder in (teacher, tmp_path / "start"):
        save_tokenizer(train_tokenizer(["hello there"], 300, 64), folder)
    save_lessons(_cycle(), tmp_path / "lessons.npz")
    settings = ["--lessons", str(tmp_path / "lessons.npz"), "--start", str(tmp_path / "start"), "--minutes", "0.002"]
    command = ["distill", "--teacher", str(teacher), *settings, "--output", str(output), "--read-target"]
    with pytest.raises(PocketspecError, match="--read-target is for drafts in parallel; give --parallel K as well"):
        main(command)
    assert main([*command, "--parallel", "4"]) == 0
    config = AutoConfig.from_pretrained(output)
    assert parallel_drafts(config) == ParallelDrafts(MASK, 4)
    assert has_projection(config, output)
    assert pard2_head(config, TARGET).reads == (3, 2, 1)
    AutoModelForCausalLM.from_pretrained(output)(torch.tensor([[3, 4]]))
