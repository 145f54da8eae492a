"""Kinds of drafters: what each says of its drafts is what drafting gives, and how long answers take with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from export.distill.corpus import token_ids
from export.distill.eagle import EagleObjective
from export.distill.held_out import DraftHits, HeldOutText, draft_quality, follow
from export.distill.kinds import KINDS
from export.distill.kinds.kind import Teaching, fitted
from export.distill.kinds.small import small_config
from export.distill.stack import StackObjective
from export.distill.train import Schedule
from export.graph.taps import tapped
from export.manifest import PocketspecError
from tests.export.distill.test_eagle import target_of
from tests.export.distill.test_parallel import MASK, Entries, _cycle

TEXT, BEGIN, DRAFTS = [3, 9, 27, 81, 4, 5, 200, 17, 8, 9, 27, 81], 4, 3


def teaching_of(target: Any, **more: Any) -> Teaching:
    return Teaching(Path("target"), target.config, Entries(MASK, None), torch.device("cpu"), DRAFTS, **more)


def _draft_small(student: Any, task: Any, text: list[int]) -> list[int]:
    drafted = list(text)
    for _ in range(DRAFTS):
        drafted.append(int(student(input_ids=torch.tensor([drafted])).logits[0, -1].argmax()))
    return drafted[len(text) :]


def _draft_pard(student: Any, task: Any, text: list[int]) -> list[int]:
    fed = torch.tensor([[*text, *[MASK] * (DRAFTS - 1)]])
    return [int(token) for token in student(input_ids=fed).logits[0, -DRAFTS:].argmax(-1)]


def _draft_eagle(student: Any, task: EagleObjective, text: list[int]) -> list[int]:
    drafted, own = list(text), torch.zeros(1, 0, student.config.hidden_size)
    with tapped(task.target, student.reads) as found:
        task.target(input_ids=torch.tensor([text]))
    hidden = torch.cat([found[tap] for tap in student.reads], -1)[:, :-1]
    for _ in range(DRAFTS):
        out = student.head(torch.tensor([drafted[1:]]), hidden, own, use_cache=False)
        own = torch.cat((own, out.hidden[:, -1:]), 1)
        drafted.append(int(out.logits[0, -1].argmax()))
    return drafted[len(text) :]


def _draft_stack(student: Any, task: StackObjective, text: list[int]) -> list[int]:
    with tapped(task.target, (student.reads,)) as found:
        task.target(input_ids=torch.tensor([text[:-1]]))
    features, drafted = found[student.reads][:, -1:], list(text)
    own = torch.zeros(1, 0, student.stack.shape.own_hidden(features.shape[-1]))
    for _ in range(DRAFTS):
        out = student.stack(torch.tensor([drafted[-1:]]), features, own)
        features, own = features[:, :0], out.hidden
        drafted.append(int(out.logits[0, -1].argmax()))
    return drafted[len(text) :]


@pytest.mark.parametrize(
    ("kind", "draft"),
    [
        ("small", _draft_small),
        ("pard", _draft_pard),
        ("eagle", _draft_eagle),
        ("medusa", _draft_stack),
        ("hydra", _draft_stack),
    ],
)
def test_what_a_kind_says_its_drafts_hit_is_what_drafting_hits(
    kind: str, draft: Callable[[Any, Any, list[int]], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind every place of the answer; drafts behind a wrong one are not compared, since they read another text."""
    target = target_of()
    monkeypatch.setattr(Teaching, "target", target)
    teaching = teaching_of(target)
    student = KINDS[kind].student(teaching).eval()
    task = KINDS[kind].objective(teaching, replace(_cycle()))
    with torch.inference_mode():
        tokens = list(TEXT)
        # Most of the answer is what the student drafts itself, so that drafts are right now and then.
        tokens[BEGIN + 1 : BEGIN + 1] = draft(student, task, tokens[: BEGIN + 1])
        tokens[BEGIN + 5 : BEGIN + 5] = draft(student, task, tokens[: BEGIN + 5])
        hits = KINDS[kind].hits(student, task, HeldOutText(token_ids(tokens), BEGIN), DRAFTS)
        assert hits.shape == (len(tokens) - BEGIN, DRAFTS)
        for row, place in enumerate(range(BEGIN, len(tokens))):
            drafted = draft(student, task, tokens[:place])
            right = [place + step < len(tokens) and drafted[step] == tokens[place + step] for step in range(DRAFTS)]
            first_wrong = right.index(False) if False in right else DRAFTS - 1
            assert hits[row, : first_wrong + 1].tolist() == right[: first_wrong + 1], (kind, row)
    assert hits.all(1).any(), "no draft was right to its end"


def test_steps_of_an_answer_are_those_of_decoding_it() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        hits: DraftHits = rng.random((int(rng.integers(1, 30)), 4)) < 0.7
        steps = place = 0
        while place < len(hits):
            while_right = 0
            while while_right < 4 and hits[place, while_right]:
                while_right += 1
            place, steps = place + while_right + 1, steps + 1
        assert draft_quality([hits]).tokens_a_step == pytest.approx(len(hits) / steps)


def test_agreement_is_by_position_where_all_before_stands() -> None:
    hits = np.array([[True, True], [True, False], [False, True], [False, True]])
    assert draft_quality([hits]).agreement == (0.5, 0.5)


def test_a_chain_goes_on_as_long_as_every_choice_is_right() -> None:
    hits = follow(np.array([True, True, False, True]), 3)
    assert hits.tolist() == [[True, True, False], [True, False, True], [False, True, False], [True, False, False]]


def test_a_small_model_is_a_twentieth_of_its_target_and_of_its_vocabulary() -> None:
    for hidden, vocabulary in ((256, 4096), (1536, 32_000), (64, 300)):
        target = LlamaConfig(
            hidden_size=hidden, intermediate_size=3 * hidden, vocab_size=vocabulary, num_hidden_layers=12
        )
        config = small_config(target)
        with torch.device("meta"):
            small, large = (AutoModelForCausalLM.from_config(each).num_parameters() for each in (config, target))
        assert config.vocab_size == vocabulary
        assert config.head_dim % 16 == 0
        assert config.hidden_size % 32 == 0
        assert config.hidden_size == 32 or 0.02 * large < small < 0.07 * large


def test_windows_are_no_longer_than_the_target_and_the_lessons() -> None:
    short = fitted(Schedule(1), longest=1024, tokens=10**6)
    assert (short.length, short.long_length) == (512, 1024)
    assert fitted(Schedule(1), longest=1024, tokens=400).length == 200


def test_a_kind_refuses_what_does_not_fit_it() -> None:
    target = target_of()
    with pytest.raises(PocketspecError, match="--from-layers means nothing for --kind pard; drop it"):
        KINDS["pard"].check(teaching_of(target, layers=(0,)))
    with pytest.raises(PocketspecError, match="--start means nothing for --kind eagle"):
        KINDS["eagle"].check(teaching_of(target, start=Path("x")))
    with pytest.raises(PocketspecError, match="--start and --from-layers exclude each other"):
        KINDS["small"].check(teaching_of(target, start=Path("x"), layers=(0,)))
    target.config.model_type = "lfm2"
    with pytest.raises(PocketspecError, match="and this is lfm2; --kind small fits every target"):
        KINDS["eagle"].check(teaching_of(target))
