"""The one seam of ``distill --target``: what a kind of drafter begins as, learns, and is judged by.

A kind is one file in this room and one line in its table. Its student is a module with ``save_pretrained``, which
writes an ordinary checkpoint: one that ``python -m export --drafter FOLDER`` knows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from export.distill.held_out import DraftHits, HeldOutText
from export.distill.lessons import Lessons
from export.distill.train import Objective, Schedule
from export.manifest import PocketspecError
from export.sources.config_names import read_size
from export.untrusted import first_line


@dataclass(frozen=True)
class Teaching:
    """What a kind begins with: the target's checkpoint and what was asked for.

    ``start`` is a checkpoint to begin as, ``layers`` are layers of the target to begin as, ``drafts`` how many tokens a
    draft has. Models are float32 on ``device``.
    """

    checkpoint: Path
    config: Any
    tokenizer: Any
    device: torch.device
    drafts: int
    start: Path | None = None
    layers: tuple[int, ...] = ()

    @cached_property
    def target(self) -> Any:
        """The target, as its checkpoint is."""
        return self.open(self.checkpoint)

    @property
    def longest(self) -> int:
        """Positions of the target."""
        return read_size(self.config, "positions")

    def open(self, folder: Path) -> Any:
        """The model in ``folder``; PocketspecError if transformers cannot open it."""
        try:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        except Exception as error:  # transformers raises anything for what it does not expect
            raise PocketspecError(f"transformers cannot open the model in {folder}: {first_line(error)}") from error
        return model.eval().to(self.device)


class StudentKind(ABC):
    """A kind of drafter. ``drafts`` is its usual length of a draft, ``purpose`` a line for users.

    ``starts_as`` is the kind that is trained first where nothing is given to begin as.
    """

    name: str
    purpose: str
    drafts: int
    starts_as: StudentKind | None = None

    @abstractmethod
    def check(self, teaching: Teaching) -> None:
        """PocketspecError if there is no such drafter for the target, or what was asked for makes no sense."""

    @abstractmethod
    def student(self, teaching: Teaching) -> nn.Module:
        """The drafter before it has learned, float32, on the device."""

    @abstractmethod
    def objective(self, teaching: Teaching, lessons: Lessons) -> Objective:
        """What it learns."""

    @abstractmethod
    def hits(self, student: Any, task: Any, text: HeldOutText, drafts: int) -> DraftHits:
        """Which of ``drafts`` drafts behind each place of the answer are the target's: rows are the answer's tokens.

        ``task`` is the kind's objective. The first row has the drafts behind the last token of the prompt.
        """

    def schedule(self, minutes: float) -> Schedule:
        """How it learns; windows are shortened to what the target and the lessons have."""
        return Schedule(minutes)


def fitted(schedule: Schedule, longest: int, tokens: int) -> Schedule:
    """``schedule`` with windows for a model of ``longest`` positions and a stream of ``tokens`` tokens."""
    most = max(1, min(longest, tokens // 2))
    return replace(schedule, length=min(schedule.length, most), long_length=min(schedule.long_length, most))


def refuse_options(kind: str, teaching: Teaching, names: Sequence[str]) -> None:
    """PocketspecError for what ``kind`` has no use for, of ``start`` and ``layers``."""
    options = {"start": ("--start", teaching.start), "layers": ("--from-layers", teaching.layers)}
    for option, given in (options[name] for name in names):
        if given:
            raise PocketspecError(f"{option} means nothing for --kind {kind}; drop it")
