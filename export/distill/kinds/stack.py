"""``medusa`` and ``hydra``: a head for each token of a draft, over one hidden row of the target as it will run."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from export.distill.devices import tensors_for
from export.distill.eagle import quantized
from export.distill.held_out import DraftHits, HeldOutText
from export.distill.kinds.kind import StudentKind, Teaching, refuse_options
from export.distill.lessons import Lessons
from export.distill.stack import StackObjective, StackStudent
from export.distill.train import Objective, Schedule
from export.heads.stack_formats import StackConfig, head_stack
from export.manifest import PocketspecError
from export.sources.parallel_drafts import LEAST_DRAFTS, MOST_DRAFTS


class StackedHeads(StudentKind):
    """See above; ``grounded``: Hydra's, which read the tokens drafted before them."""

    drafts = 4

    def __init__(self, grounded: bool) -> None:
        self.grounded = grounded
        self.name = "hydra" if grounded else "medusa"
        what = "that read drafted tokens as well" if grounded else "which one forward computes"
        self.purpose = f"a head for each token over a hidden row of the target, {what}"

    def check(self, teaching: Teaching) -> None:
        """See ``StudentKind``."""
        refuse_options(self.name, teaching, ["start", "layers"])
        if not LEAST_DRAFTS <= teaching.drafts <= MOST_DRAFTS:
            raise PocketspecError(f"--drafts {teaching.drafts}; write {LEAST_DRAFTS} to {MOST_DRAFTS}")
        try:
            head_stack(StackConfig(self.name.capitalize(), {}), teaching.config)
        except PocketspecError as error:
            raise PocketspecError(f"{error}; --kind small fits every target") from None

    def student(self, teaching: Teaching) -> nn.Module:
        """See ``StudentKind``."""
        torch.manual_seed(Schedule.seed)
        return StackStudent(teaching.target, teaching.drafts, self.grounded).to(teaching.device)

    def objective(self, teaching: Teaching, lessons: Lessons) -> Objective:
        """See ``StudentKind``."""
        return StackObjective(lessons, quantized(teaching.target), teaching.drafts)

    def schedule(self, minutes: float) -> Schedule:
        """See ``StudentKind``."""
        return Schedule(minutes, tokens_per_step=1024, length=256, long_length=512)

    def hits(self, student: Any, task: Any, text: HeldOutText, drafts: int) -> DraftHits:
        """See ``StudentKind``. Row i of head k is behind token i + 1, and guesses the one k + 1 places further."""
        (fed,) = tensors_for(student, text.tokens[None].astype(np.int64))
        count = len(text.tokens)
        found = np.zeros((count, drafts), np.bool_)
        for head, logits in enumerate(task.steps(student, fed)):
            chosen = logits[0].argmax(-1).cpu().numpy()
            rows = np.arange(count - head - 2)
            found[rows + 1, head] = chosen[rows] == text.tokens[rows + head + 2]
        return found[text.begin - 1 : -1]
