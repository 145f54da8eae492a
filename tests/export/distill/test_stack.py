"""Stacks of heads: rows of a training step are those of drafting, and what has learned is a known checkpoint."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from export.distill.commands import main
from export.distill.lessons import save_lessons
from export.distill.stack import StackObjective, StackStudent
from export.distill.tokenizer import save_tokenizer, train_tokenizer
from export.distill.train import Schedule, train
from export.graph.taps import tapped
from export.heads.eagle3 import read_drafter_config
from export.heads.stack_formats import StackConfig, head_stack
from export.heads.tensors import open_head
from export.sources.opened import ModelOrigin
from export.sources.targets import load_config, resolve
from tests.export.distill.test_eagle import target_of
from tests.export.distill.test_parallel import CONFIG, _cycle

HEADS = 3


@pytest.mark.parametrize("grounded", [False, True])
def test_rows_of_every_head_are_those_of_drafting(grounded: bool) -> None:
    target, text = target_of(), torch.tensor([[3, 9, 27, 81, 4, 5, 200, 17, 8]])
    student = StackStudent(target, HEADS, grounded).eval()
    for parameter in student.stack.layers.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    with torch.no_grad(), tapped(target, (student.reads,)) as found:
        target(input_ids=text, use_cache=False)
        hidden = found[student.reads]
        for row in range(text.shape[1] - HEADS - 1):
            features, own = (
                hidden[:, row : row + 1],
                hidden.new_zeros(1, 0, student.stack.shape.own_hidden(CONFIG.hidden_size)),
            )
            for head in range(HEADS):
                out = student.stack(text[:, row + head + 1][None], features, own)
                features, own = features[:, :0], out.hidden
                learned = student.stack.logits_of(head, text, hidden)[0, row]
                torch.testing.assert_close(learned, out.logits[0, 0], atol=1e-4, rtol=1e-3)


def test_what_the_target_has_stays_and_heads_begin_as_its_output() -> None:
    target = target_of()
    for grounded in (False, True):
        student, row = StackStudent(target, HEADS, grounded), torch.randn(1, 4, CONFIG.hidden_size)
        kept = {name for name, parameter in student.named_parameters() if not parameter.requires_grad}
        shared = {"stack.model.embed_tokens.weight"} if grounded else {"stack.lm_head.weight"}
        assert kept == {"stack.target_norm.weight", *shared}
        text = torch.tensor([[3, 9, 27, 81]])
        expected = target.lm_head(target.model.norm(row))[:, :2]
        torch.testing.assert_close(student.stack.logits_of(1, text, row), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("grounded", [False, True])
def test_heads_learn_what_follows(grounded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr("export.distill.train.time", SimpleNamespace(monotonic=lambda: next(ticks) * 0.024))
    schedule = Schedule(0.05, tokens_per_step=64, length=16, long_length=32, matrix_rate=0.03, vector_rate=0.03)
    target = target_of()
    with torch.no_grad():
        target.lm_head.weight.mul_(20)  # as wide as logits of a trained model, whose output Medusa's heads share
    task = StackObjective(_cycle(), target, HEADS)
    train(StackStudent(target, HEADS, grounded), task, schedule, tmp_path)
    assert (task.agreement.shares > 0.25).all()
    assert 1 < task.agreement.expected_tokens < 4


@pytest.mark.parametrize("kind", ["medusa", "hydra"])
def test_the_command_writes_heads_that_an_export_takes(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.distill.train.REPORT_STEPS", 1)
    teacher, output = tmp_path / "teacher", tmp_path / kind
    target: Any = target_of()
    target.save_pretrained(teacher)
    save_tokenizer(train_tokenizer(["hello there"], 300, 64), teacher)
    save_lessons(_cycle(), tmp_path / "lessons.npz")
    settings = ["--lessons", str(tmp_path / "lessons.npz"), "--minutes", "0.002", "--kind", kind, "--steps", "4"]
    assert main(["distill", "--teacher", str(teacher), *settings, "--output", str(output)]) == 0
    assert "tokens a step" in capsys.readouterr().err
    config = read_drafter_config(output)
    assert isinstance(config, StackConfig)
    head = head_stack(config, load_config(teacher))
    found = open_head(head, ModelOrigin(resolve(str(output))), ModelOrigin(resolve(str(teacher))), None)
    assert (found.head.stack, found.head.together) == (4, kind == "medusa")
