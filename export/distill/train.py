"""The training loop on the CPU: next-token loss on real text, or a teacher's distributions.

Arithmetic is bf16 where that is faster here, else fp32. Hidden matrices are trained with Muon, embeddings and norms
with AdamW. The schedule follows wall-clock time, so a run ends in time whatever else the machine does. An interrupted
run continues from its last checkpoint.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
import timeit
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from export.distill.corpus import Corpus
from export.distill.lessons import Lessons
from export.distill.muon import Muon

CHECKPOINT = "training.pt"
SAVE_SECONDS = 120.0
REPORT_STEPS = 20


@dataclass(frozen=True)
class Schedule:
    """How long and how to train.

    ``minutes`` of wall-clock time; ``tokens_per_step`` in windows of ``length``, and of ``long_length`` during the
    last ``long_share`` of the time, so that late positions are trained too. ``matrix_rate`` is Muon's learning
    rate (scaled to AdamW's update size), ``vector_rate`` AdamW's.
    """

    minutes: float
    tokens_per_step: int = 4096
    length: int = 512
    long_length: int = 2048
    long_share: float = 0.15
    matrix_rate: float = 3e-3
    vector_rate: float = 3e-3
    warmup: float = 0.02
    seed: int = 0

    def rate(self, progress: float) -> float:
        """Share of the peak learning rate at ``progress`` in [0, 1]: linear warm-up, then cosine to 2%."""
        if progress < self.warmup:
            return progress / self.warmup
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@dataclass
class TrainingProgress:
    """Where a run stands: optimizer steps, tokens seen, seconds spent, and a running mean of the loss in nats."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss: float = float("nan")


def make_optimizers(model: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside layers, AdamW for embeddings, head and norms."""
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    inner = [weight for name, weight in named if weight.ndim == 2 and ".layers." in name]
    outer = [weight for name, weight in named if not (weight.ndim == 2 and ".layers." in name)]
    muon = Muon(inner, lr=schedule.matrix_rate, decay=0.05)
    adam = torch.optim.AdamW(outer, lr=schedule.vector_rate, betas=(0.9, 0.95), weight_decay=0.0)
    return [muon, adam]


class Objective(Protocol):
    """What is learned: the loss of a model over windows that it draws."""

    def loss(self, model: Any, rng: np.random.Generator, rows: int, length: int) -> torch.Tensor:
        """The loss in nats per token over ``rows`` windows of ``length`` tokens."""
        ...


@dataclass(frozen=True)
class NextTokenObjective:
    """The next token of real text."""

    corpus: Corpus

    def loss(self, model: Any, rng: np.random.Generator, rows: int, length: int) -> torch.Tensor:
        """Cross entropy of the next token."""
        windows = torch.from_numpy(self.corpus.windows(rng, rows, length))
        logits = model(input_ids=windows[:, :-1], use_cache=False).logits
        return functional.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())


@dataclass(frozen=True)
class TeacherObjective:
    """A teacher's distributions (Hinton et al. 2015, at temperature 1)."""

    lessons: Lessons

    def loss(self, model: Any, rng: np.random.Generator, rows: int, length: int) -> torch.Tensor:
        """Cross entropy with the teacher's distribution: its KL divergence up to a constant."""
        tokens, ids, probs = (torch.from_numpy(part) for part in self.lessons.windows(rng, rows, length))
        given = functional.log_softmax(model(input_ids=tokens, use_cache=False).logits.float(), -1)
        return -(given.gather(-1, ids) * probs).sum(-1).mean()


def train(
    model: nn.Module,
    task: Objective,
    schedule: Schedule,
    folder: Path,
    report: Callable[[TrainingProgress], None] = lambda progress: None,
) -> TrainingProgress:
    """Trains ``model`` in place and saves it to ``folder`` as a HF checkpoint with its ``training.json``."""
    optimizers = make_optimizers(model, schedule)
    # Compiling takes a minute and gives a fifth more speed; it needs a C++ compiler.
    compiled = torch.compile(model) if schedule.minutes >= 10 and shutil.which("c++") else model
    progress = _resume(model, optimizers, folder)
    rng = np.random.default_rng([schedule.seed, progress.steps])
    limit, last_saved = schedule.minutes * 60, time.monotonic()
    model.train()
    while progress.seconds < limit:
        begun = time.monotonic()
        share = progress.seconds / limit
        length = schedule.length if share < 1 - schedule.long_share else schedule.long_length
        rows = max(1, schedule.tokens_per_step // length)
        _set_rates(optimizers, schedule, share)
        loss = _step(compiled, optimizers, partial(task.loss, rng=rng, rows=rows, length=length))
        progress.steps += 1
        progress.tokens += rows * length
        progress.loss = loss if math.isnan(progress.loss) else 0.98 * progress.loss + 0.02 * loss
        progress.seconds += time.monotonic() - begun
        if progress.steps % REPORT_STEPS == 0:
            report(progress)
        if time.monotonic() - last_saved > SAVE_SECONDS:
            _save_checkpoint(model, optimizers, progress, folder)
            last_saved = time.monotonic()
    _save_model(model, progress, schedule, folder)
    return progress


def _set_rates(optimizers: list[torch.optim.Optimizer], schedule: Schedule, share: float) -> None:
    for optimizer, peak in zip(optimizers, (schedule.matrix_rate, schedule.vector_rate), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = peak * schedule.rate(share)


def _step(model: Any, optimizers: list[torch.optim.Optimizer], loss_of: Callable[[Any], torch.Tensor]) -> float:
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_is_faster()):
        loss = loss_of(model)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.item()


@cache
def bfloat16_is_faster() -> bool:
    """Whether this processor multiplies matrices of bfloat16 faster than of float32, by a short trial.

    Instructions for it do not say so: with AVX512-BF16, but no tiles, oneDNN took twice as long (2026-11-29, Xeon).
    """
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        rows, matrix = torch.ones(512, 256, dtype=dtype), torch.ones(256, 1024, dtype=dtype)
        seconds[dtype] = min(timeit.repeat(partial(torch.mm, rows, matrix), number=1, repeat=7))
    return seconds[torch.bfloat16] < seconds[torch.float32]


def _save_checkpoint(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], progress: TrainingProgress, folder: Path
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state: dict[str, Any] = {"model": model.state_dict(), "progress": asdict(progress)}
    state["optimizers"] = [optimizer.state_dict() for optimizer in optimizers]
    torch.save(state, folder / (CHECKPOINT + ".part"))
    os.replace(folder / (CHECKPOINT + ".part"), folder / CHECKPOINT)


def _resume(model: nn.Module, optimizers: list[torch.optim.Optimizer], folder: Path) -> TrainingProgress:
    if not (folder / CHECKPOINT).exists():
        return TrainingProgress()
    state = torch.load(folder / CHECKPOINT, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return TrainingProgress(**state["progress"])


def _save_model(model: Any, progress: TrainingProgress, schedule: Schedule, folder: Path) -> None:
    model.eval()
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps({"progress": asdict(progress), "schedule": asdict(schedule)}))
    (folder / CHECKPOINT).unlink(missing_ok=True)
