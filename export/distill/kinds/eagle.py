"""``eagle``: an EAGLE-3 head, one layer that reads hidden rows of the target as an int4 export rounds it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from export.distill.devices import tensors_for
from export.distill.eagle import EagleObjective, EagleStudent, eagle_config, quantized
from export.distill.held_out import DraftHits, HeldOutText
from export.distill.kinds.kind import StudentKind, Teaching, refuse_options
from export.distill.lessons import Lessons
from export.distill.train import Objective, Schedule
from export.manifest import PocketspecError
from export.sources.parallel_drafts import LEAST_DRAFTS, MOST_DRAFTS


class FeatureHead(StudentKind):
    """See above."""

    name = "eagle"
    purpose = "an EAGLE-3 head, which reads the target's hidden rows"
    drafts = 5

    def check(self, teaching: Teaching) -> None:
        """See ``StudentKind``."""
        refuse_options(self.name, teaching, ["start", "layers"])
        if not LEAST_DRAFTS <= teaching.drafts <= MOST_DRAFTS:
            raise PocketspecError(f"--drafts {teaching.drafts}; write {LEAST_DRAFTS} to {MOST_DRAFTS}")
        try:
            eagle_config(teaching.config)
        except PocketspecError as error:
            raise PocketspecError(f"{error}; --kind small fits every target") from None

    def student(self, teaching: Teaching) -> nn.Module:
        """See ``StudentKind``."""
        torch.manual_seed(Schedule.seed)
        return EagleStudent(teaching.target).to(teaching.device)

    def objective(self, teaching: Teaching, lessons: Lessons) -> Objective:
        """See ``StudentKind``."""
        return EagleObjective(lessons, quantized(teaching.target), teaching.drafts)

    def schedule(self, minutes: float) -> Schedule:
        """See ``StudentKind``."""
        return Schedule(minutes, tokens_per_step=2048, length=256, long_length=512)

    def hits(self, student: Any, task: Any, text: HeldOutText, drafts: int) -> DraftHits:
        """See ``StudentKind``. Row i of step k is behind token i + 1, of a draft that began behind token i + 1 - k."""
        (fed,) = tensors_for(student, text.tokens[None].astype(np.int64))
        count = len(text.tokens)
        found = np.zeros((count, drafts), np.bool_)
        for step, logits in enumerate(task.steps(student, fed)):
            chosen = logits[0].argmax(-1).cpu().numpy()
            rows = np.arange(step, count - 2)
            found[rows + 1 - step, step] = chosen[rows] == text.tokens[rows + 2]
        return found[text.begin - 1 : -1]
