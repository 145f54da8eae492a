"""The training loop: next-token loss on real text, or a teacher's distributions.

Arithmetic is bf16 where that is faster here, else fp32. Hidden matrices are trained with Muon, embeddings and norms
with AdamW. The schedule follows wall-clock time, so a run ends in time whatever else the machine does. An interrupted
run continues from its last checkpoint. With a judge, the result is the best that it saw.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from export.distill.checkpoints import CHECKPOINT, Best, read_state, room_on_disk, write_state
from export.distill.corpus import Corpus
from export.distill.devices import device_of, mixed_precision, tensors_for
from export.distill.lessons import Lessons
from export.distill.muon import Muon
from export.distill.processes import as_first, averaging, is_first, process_count

# Says of a student that it has learned.
PROGRESS = "training.json"
SAVE_SECONDS = 120.0
REPORT_STEPS = 20
# How often a run is judged, evenly in its time.
_JUDGEMENTS = 12
# What of a run may be lost to an interruption, where that is less than SAVE_SECONDS.
_LOST_SHARE = 0.05


@dataclass(frozen=True)
class Schedule:
    """How long and how to train.

    ``minutes`` of wall-clock time; ``tokens_per_step`` of every process, in windows of ``length``, and of
    ``long_length`` during the last ``long_share`` of the time, so that late positions are trained too. ``matrix_rate``
    is Muon's learning rate (scaled to AdamW's update size), ``vector_rate`` AdamW's.
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
    """What is learned: the loss of a model over windows that it draws, this process's share of them."""

    def loss(self, model: Any, rng: np.random.Generator, rows: int, length: int) -> torch.Tensor:
        """The loss in nats per token over ``rows`` windows of ``length`` tokens."""
        ...


@dataclass(frozen=True)
class NextTokenObjective:
    """The next token of real text."""

    corpus: Corpus

    def loss(self, model: Any, rng: np.random.Generator, rows: int, length: int) -> torch.Tensor:
        """Cross entropy of the next token."""
        (windows,) = tensors_for(model, self.corpus.windows(rng, rows, length))
        logits = model(input_ids=windows[:, :-1], use_cache=False).logits
        return functional.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())


@dataclass(frozen=True)
class TeacherObjective:
    """A teacher's distributions (Hinton et al. 2015, at temperature 1)."""

    lessons: Lessons

    def loss(self, model: Any, rng: np.random.Generator, rows: int, length: int) -> torch.Tensor:
        """Cross entropy with the teacher's distribution: its KL divergence up to a constant."""
        tokens, ids, probs = tensors_for(model, *self.lessons.windows(rng, rows, length))
        given = functional.log_softmax(model(input_ids=tokens, use_cache=False).logits.float(), -1)
        return -(given.gather(-1, ids) * probs).sum(-1).mean()


class _Loss(nn.Module):
    """An objective and its model as one module, of which every pass through the model is a part."""

    def __init__(self, model: nn.Module, task: Objective) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, rng: np.random.Generator, rows: int, length: int) -> torch.Tensor:
        """The loss over ``rows`` windows of ``length`` tokens."""
        return self.task.loss(self.model, rng, rows, length)


def train(
    model: nn.Module,
    task: Objective,
    schedule: Schedule,
    folder: Path,
    report: Callable[[TrainingProgress], None] = lambda progress: None,
    judge: Callable[[TrainingProgress], float] | None = None,
) -> TrainingProgress:
    """Trains ``model`` in place and saves it to ``folder`` as a HF checkpoint with its ``training.json``.

    ``judge`` gives the worth of the model as it is; it is called now and then and at the end, and what was worth most
    is saved. Of several processes the first one reports, judges and saves.
    """
    optimizers = make_optimizers(model, schedule)
    # Compiling takes a minute and gives a fifth more speed; it needs a C++ compiler.
    compiled = torch.compile(model) if schedule.minutes >= 10 and shutil.which("c++") else model
    progress, best = _resume(model, optimizers, folder), Best(folder)
    loss_of = averaging(_Loss(compiled, task))
    rng = np.random.default_rng([schedule.seed, progress.steps])
    limit, last_saved = schedule.minutes * 60, time.monotonic()
    judged = int(progress.seconds / limit * _JUDGEMENTS)
    model.train()
    while progress.seconds < limit:
        begun = time.monotonic()
        share = progress.seconds / limit
        length = schedule.length if share < 1 - schedule.long_share else schedule.long_length
        rows = max(1, schedule.tokens_per_step // length) * process_count()
        _set_rates(optimizers, schedule, share)
        loss = _step(model, optimizers, partial(loss_of, rng, rows, length))
        progress.steps += 1
        progress.tokens += rows * length
        progress.loss = loss if math.isnan(progress.loss) else 0.98 * progress.loss + 0.02 * loss
        if judge is not None and is_first() and int(share * _JUDGEMENTS) > judged:
            judged = int(share * _JUDGEMENTS)
            _judge(model, judge, progress, best)
        progress.seconds = as_first(progress.seconds + time.monotonic() - begun)
        if is_first() and progress.steps % REPORT_STEPS == 0:
            report(progress)
        if is_first() and time.monotonic() - last_saved > min(SAVE_SECONDS, limit * _LOST_SHARE):
            _save_checkpoint(model, optimizers, progress, folder)
            last_saved = time.monotonic()
    if is_first():
        if judge is not None:
            _judge(model, judge, progress, best)
            best.restore(model)
        _save_model(model, progress, schedule, folder)
        best.forget()
    return progress


def _judge(
    model: nn.Module, judge: Callable[[TrainingProgress], float], progress: TrainingProgress, best: Best
) -> None:
    model.eval()
    with torch.inference_mode():
        best.offer(model, judge(progress))
    model.train()


def _set_rates(optimizers: list[torch.optim.Optimizer], schedule: Schedule, share: float) -> None:
    for optimizer, peak in zip(optimizers, (schedule.matrix_rate, schedule.vector_rate), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = peak * schedule.rate(share)


def _step(model: nn.Module, optimizers: list[torch.optim.Optimizer], loss_of: Callable[[], torch.Tensor]) -> float:
    with mixed_precision(device_of(model)):
        loss = loss_of()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.item()


def _save_checkpoint(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], progress: TrainingProgress, folder: Path
) -> None:
    state: dict[str, Any] = {"model": model.state_dict(), "progress": asdict(progress)}
    state["optimizers"] = [optimizer.state_dict() for optimizer in optimizers]
    write_state(state, folder / CHECKPOINT)


def _resume(model: nn.Module, optimizers: list[torch.optim.Optimizer], folder: Path) -> TrainingProgress:
    state = read_state(folder / CHECKPOINT, device_of(model))
    if state is None:
        return TrainingProgress()
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return TrainingProgress(**state["progress"])


def _save_model(model: Any, progress: TrainingProgress, schedule: Schedule, folder: Path) -> None:
    model.eval()
    model.to(torch.bfloat16)
    with room_on_disk(folder):
        model.save_pretrained(folder)
        (folder / PROGRESS).write_text(json.dumps({"progress": asdict(progress), "schedule": asdict(schedule)}))
    (folder / CHECKPOINT).unlink(missing_ok=True)
