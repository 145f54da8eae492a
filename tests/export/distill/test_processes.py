"""Several processes learn what one would, and a training keeps its best and what a full disk had no room for."""

from __future__ import annotations

import itertools
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from export.distill import processes
from export.distill.checkpoints import CHECKPOINT, FullDiskError
from export.distill.corpus import Corpus, token_ids
from export.distill.lessons import Lessons, join
from export.distill.train import Schedule, TeacherObjective, TrainingProgress, train
from export.manifest import PocketspecError
from tests.export.distill.test_parallel import _cycle, _model
from tests.places import ROOT

BRIEF = Schedule(minutes=0.04, tokens_per_step=64, length=16, long_length=32)


@pytest.fixture(autouse=True)
def _even_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr("export.distill.train.time", SimpleNamespace(monotonic=lambda: next(ticks) * 0.1))


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_from_twice_the_batch(tmp_path: Path) -> None:
    script = "tests.export.distill.learn_together"
    together, alone = tmp_path / "together", tmp_path / "alone"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]
    subprocess.run([*torchrun, script, "64", str(together)], cwd=ROOT, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", script, "128", str(alone)], cwd=ROOT, check=True, capture_output=True)
    one, two = (load_file(folder / "model.safetensors") for folder in (alone, together))
    begun = _model().state_dict()
    for name, weight in one.items():
        moved = (weight.float() - begun[name]).norm()
        assert (two[name].float() - weight.float()).norm() < 0.02 * moved, name


def test_the_shares_of_all_processes_are_the_rows_that_all_drew(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _cycle().corpus.window_index(np.random.default_rng(0), 6, 16)
    monkeypatch.setattr(processes.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(processes.distributed, "get_world_size", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(processes.distributed, "get_rank", lambda rank=rank: rank)
        shares.append(_cycle().corpus.window_index(np.random.default_rng(0), 6, 16))
        assert processes.is_first() == (rank == 0)
    np.testing.assert_array_equal(np.concatenate(shares), whole)


def test_what_was_worth_most_is_saved(tmp_path: Path) -> None:
    model, worths, seen = _model(), iter([1.0, 3.0, 2.0]), list[torch.Tensor]()

    def judge(progress: TrainingProgress) -> float:
        seen.append(model.model.norm.weight.detach().clone())
        return next(worths, 0.0)

    train(model, TeacherObjective(_cycle()), BRIEF, tmp_path, judge=judge)
    assert len(seen) > 3
    assert not torch.equal(seen[1], seen[-1])
    saved = load_file(tmp_path / "model.safetensors")["model.norm.weight"]
    assert torch.equal(saved, seen[1].to(torch.bfloat16))
    assert {path.name for path in tmp_path.glob("*.pt*")} == set()


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow beyond 10,000 bytes: writes beyond fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("saves", ["checkpoint", "best", "model"])
def test_a_full_disk_is_one_line_and_nothing_half_written(tmp_path: Path, saves: str) -> None:
    schedule = replace(BRIEF, minutes=BRIEF.minutes if saves == "checkpoint" else 0.002)
    judge: Any = (lambda progress: 1.0) if saves == "best" else None
    with pytest.raises(
        FullDiskError, match=r"cannot be written .*; free space on its disk, and the same command"
    ) as no:
        train(_model(), TeacherObjective(_cycle()), schedule, tmp_path, judge=judge)
    assert "\n" not in str(no.value)
    assert not list(tmp_path.glob("*.p*t"))
    assert not (tmp_path / CHECKPOINT).exists()


def test_ids_are_as_wide_as_the_vocabulary_needs() -> None:
    assert token_ids([65_535]).dtype == np.uint16
    assert token_ids([65_536, 3]).dtype == np.uint32
    small = _cycle()
    wide = Lessons(Corpus(token_ids([70_000] * 40), np.zeros(1, np.int64)), small.ids[:40] + 0, small.probs[:40])
    both = join([small, wide])
    assert both.corpus.tokens.dtype == np.uint32
    assert both.corpus.tokens[-1] == 70_000


def test_too_few_tokens_are_refused() -> None:
    with pytest.raises(PocketspecError, match="16 tokens to learn from are too few for windows of 16; give more text"):
        Corpus(token_ids(range(16)), np.zeros(1, np.int64)).window_index(np.random.default_rng(0), 1, 16)
