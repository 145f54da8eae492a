"""PARD: rows of a training forward are those of drafting, and a model that learned drafts several tokens at once."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from export.distill.commands import main
from export.distill.corpus import Corpus
from export.distill.lessons import TOP, Lessons, save_lessons
from export.distill.parallel import ParallelObjective, draw_rows, mask_token
from export.distill.tokenizer import save_tokenizer, train_tokenizer
from export.distill.train import Schedule, train
from export.manifest import ParallelDrafts, PocketspecError
from export.sources.model_shape import ArchitectureError
from export.sources.parallel_drafts import parallel_drafts

MASK = 0
CONFIG = LlamaConfig(
    vocab_size=300,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=64,
    eos_token_id=2,
    tie_word_embeddings=True,
)


def _cycle() -> Lessons:
    """Every token follows from the one before, and so does every later one."""
    tokens = np.tile(np.arange(3, 19, dtype=np.uint16), 64)
    ids = np.zeros((len(tokens), TOP), np.uint16)
    ids[:, 0] = np.roll(tokens, -1)
    ids[:, 1:] = np.arange(20, 20 + TOP - 1)
    probs = np.zeros((len(tokens), TOP), np.float16)
    probs[:, 0] = 1
    return Lessons(Corpus(tokens, np.arange(0, 1024, 16)), ids, probs)


def _model() -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(copy.deepcopy(CONFIG))  # saving a model changes its own


def test_every_kept_row_has_all_masks_before_it_and_their_number_is_fixed() -> None:
    counts = set()
    for seed in range(20):
        rows = draw_rows(np.random.default_rng(seed), 40, 6)
        kept = set(zip(rows.blocks.tolist(), rows.places.tolist(), strict=True))
        assert len(kept) == len(rows.blocks)
        assert all(block == 0 or (block - 1, place - 1) in kept for block, place in kept)
        counts.add(tuple(np.bincount(rows.blocks)))
    assert counts == {(40, 28, 20, 14, 10, 8)}
    assert set(draw_rows(np.random.default_rng(0), 2, 6).blocks) == {0, 1}


def test_a_row_gives_what_a_forward_over_the_text_and_masks_gives() -> None:
    model, rows = _model().eval(), draw_rows(np.random.default_rng(0), 12, 4)
    text = torch.arange(3, 15)
    blocks, places = torch.from_numpy(rows.blocks), torch.from_numpy(rows.places)
    fed = torch.where(blocks > 0, MASK, text[places])[None]
    seen = torch.from_numpy(rows.visible())[None, None]
    with torch.inference_mode():
        logits = model(input_ids=fed, position_ids=places[None], attention_mask=seen, use_cache=False).logits[0]
        for row, (block, place) in enumerate(zip(rows.blocks.tolist(), rows.places.tolist(), strict=True)):
            drafting = torch.cat([text[: place - block + 1], torch.full((block,), MASK)])[None]
            alone = model(input_ids=drafting, use_cache=False).logits[0, -1]
            torch.testing.assert_close(logits[row], alone, atol=1e-4, rtol=1e-3)


def test_a_model_learns_to_draft_several_tokens_with_one_forward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: next(ticks) * 0.024)
    monkeypatch.setattr("export.distill.train.time", clock)
    schedule = Schedule(0.04, tokens_per_step=256, length=16, long_length=32, matrix_rate=0.01, vector_rate=0.01)
    model, task = _model(), ParallelObjective(_cycle(), MASK, 3)
    train(model, task, schedule, tmp_path)
    drafts = model.float().eval()(input_ids=torch.tensor([[4, 5, 6, MASK, MASK]])).logits[0, -3:].argmax(-1)
    assert drafts.tolist() == [7, 8, 9]
    assert (task.agreement.shares > 0.3).all()


def test_the_command_writes_a_checkpoint_that_says_how_it_drafts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.distill.train.REPORT_STEPS", 1)
    teacher = tmp_path / "teacher"
    _model().save_pretrained(teacher)
    save_tokenizer(train_tokenizer(["hello there"], 300, 64), teacher)
    save_lessons(_cycle(), tmp_path / "lessons.npz")
    output = tmp_path / "parallel"
    settings = ["--lessons", str(tmp_path / "lessons.npz"), "--start", str(teacher), "--minutes", "0.002"]
    command = ["distill", "--teacher", str(teacher), *settings, "--output", str(output), "--parallel"]
    with pytest.raises(PocketspecError, match="--parallel 1; write 2 to 64"):
        main([*command, "1"])
    assert main([*command, "4"]) == 0
    assert parallel_drafts(AutoConfig.from_pretrained(output)) == ParallelDrafts(MASK, 4)
    assert "agreement by position: " in capsys.readouterr().err


def test_a_published_checkpoint_is_known_by_its_mask_token() -> None:
    config = LlamaConfig(vocab_size=300)
    assert parallel_drafts(config) is None
    config.pard_token = 299
    assert parallel_drafts(config) == ParallelDrafts(299, 12)
    for token in (300, -1, "mask", True):
        config.pard_token = token
        with pytest.raises(ArchitectureError, match=r"pard_token .* is none of its 300 tokens"):
            parallel_drafts(config)
    config.pard_token, config.pard_longest = 299, 65
    with pytest.raises(ArchitectureError, match="pard_longest 65 is no length of drafts; it is 2 to 64"):
        parallel_drafts(config)


@dataclass(frozen=True)
class Entries:
    """A tokenizer of ten entries, of which 2 ends texts and 1 begins them."""

    pad_token_id: int | None
    unk_token_id: int | None
    eos_token_id: int = 2
    bos_token_id: int = 1

    def __len__(self) -> int:
        return 10


def test_a_token_that_no_text_has_stands_for_unknown_ones() -> None:
    assert mask_token(Entries(pad_token_id=3, unk_token_id=0), 16) == 3
    assert mask_token(Entries(pad_token_id=2, unk_token_id=0), 16) == 10
    assert mask_token(Entries(pad_token_id=None, unk_token_id=0), 10) == 0
    for tokenizer in (Entries(2, None), Entries(None, 1)):
        with pytest.raises(PocketspecError, match="no padding token of its own"):
            mask_token(tokenizer, 10)
