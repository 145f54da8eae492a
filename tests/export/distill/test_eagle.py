"""EAGLE-3: rows of a training step are those of drafting, and a head that learned drafts what its target says."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from export.distill.commands import main
from export.distill.eagle import EagleObjective, EagleStudent, eagle_config, quantized
from export.distill.lessons import save_lessons
from export.distill.tokenizer import save_tokenizer, train_tokenizer
from export.distill.train import Schedule, train
from export.graph.taps import tapped
from export.heads.eagle3 import eagle3_head, is_eagle3, read_drafter_config
from export.heads.tensors import HeadTensors
from export.manifest import PocketspecError
from export.sources.checkpoint import Checkpoint
from export.sources.checkpoint_mapping import load_tensors
from export.sources.targets import load_config
from tests.export.distill.test_parallel import CONFIG, _cycle


def target_of(layers: int = 2) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig.from_dict({**CONFIG.to_dict(), "num_hidden_layers": layers})
    # A configuration that was saved with a model in another type asks for that type.
    return AutoModelForCausalLM.from_config(config).float().eval()


def test_rows_of_every_step_are_those_of_drafting() -> None:
    """Row i of step k is the last row of a draft that began k tokens before: its own rows follow the target's."""
    target, text = target_of(), torch.tensor([[3, 9, 27, 81, 4, 5, 200, 17, 8]])
    student = EagleStudent(target).eval()
    torch.nn.init.normal_(student.head.fc.weight, std=0.2)
    with torch.no_grad():
        steps = list(EagleObjective(_cycle(), target, 3).steps(student, text))
        with tapped(target, student.reads) as found:
            target(input_ids=text, use_cache=False)
        hidden = torch.cat([found[tap] for tap in student.reads], -1)
        for step, logits in enumerate(steps):
            for row in range(step, text.shape[1] - 1):
                begun, own = row - step + 1, torch.zeros(1, 0, CONFIG.hidden_size)
                for drafted in range(step + 1):
                    ids = text[:, 1 : begun + 1 + drafted]
                    out = student.head(ids, hidden[:, :begun], own, use_cache=False)
                    own = torch.cat((own, out.hidden[:, -1:]), 1)
                torch.testing.assert_close(logits[0, row], out.logits[0, -1], atol=1e-4, rtol=1e-3)


def test_the_target_is_rounded_and_stays_as_it_was() -> None:
    target = target_of()
    weight = target.model.layers[0].mlp.up_proj.weight
    before, rounded = weight.clone(), quantized(target).model.layers[0].mlp.up_proj.weight
    assert torch.equal(weight, before)
    assert 0.01 < ((rounded - before).norm() / before.norm()).item() < 0.2
    assert not rounded.requires_grad


def test_taps_lie_low_in_the_middle_and_high() -> None:
    config = LlamaConfig(num_hidden_layers=32)
    assert eagle3_head(eagle_config(config), config).reads == (2, 16, 29)
    with pytest.raises(PocketspecError, match=r"trained for targets of llama, qwen2, qwen3, and this is lfm2"):
        eagle_config(SimpleNamespace(model_type="lfm2"))


def test_a_head_learns_what_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr("export.distill.train.time", SimpleNamespace(monotonic=lambda: next(ticks) * 0.024))
    schedule = Schedule(0.03, tokens_per_step=64, length=16, long_length=32, matrix_rate=0.01, vector_rate=0.01)
    target = target_of()
    task = EagleObjective(_cycle(), target, 3)
    train(EagleStudent(target), task, schedule, tmp_path)
    assert (task.agreement.shares > 0.3).all()
    assert 1 < task.agreement.expected_tokens < 4


def test_the_command_writes_a_head_that_an_export_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.distill.train.REPORT_STEPS", 1)
    teacher, output = tmp_path / "teacher", tmp_path / "eagle"
    target_of().save_pretrained(teacher)
    save_tokenizer(train_tokenizer(["hello there"], 300, 64), teacher)
    save_lessons(_cycle(), tmp_path / "lessons.npz")
    settings = ["--lessons", str(tmp_path / "lessons.npz"), "--minutes", "0.002", "--kind", "eagle"]
    command = ["distill", "--teacher", str(teacher), *settings, "--output", str(output)]
    with pytest.raises(PocketspecError, match="--steps 1; write 2 to 64"):
        main([*command, "--steps", "1"])
    with pytest.raises(PocketspecError, match="--parallel is for --kind model"):
        main([*command, "--parallel", "4"])
    assert main([*command, "--steps", "3"]) == 0
    assert "tokens a step" in capsys.readouterr().err
    config, target = read_drafter_config(output), load_config(teacher)
    assert is_eagle3(config)
    tensors = load_tensors(target, Checkpoint(teacher))[1]
    HeadTensors(eagle3_head(config, target), Checkpoint(output), tensors)
