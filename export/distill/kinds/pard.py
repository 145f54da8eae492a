"""``pard``: a small model that drafts several tokens with one forward, adapted from one that drafts one (PARD)."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from export.distill.devices import tensors_for
from export.distill.held_out import DraftHits, HeldOutText
from export.distill.kinds.kind import StudentKind, Teaching, refuse_options
from export.distill.kinds.small import SmallModel
from export.distill.lessons import Lessons
from export.distill.parallel import MaskedRows, ParallelObjective, mask_token
from export.distill.train import Objective
from export.manifest import PocketspecError
from export.sources.config_names import read_size
from export.sources.parallel_drafts import LEAST_DRAFTS, LONGEST_KEY, MASK_KEY, MOST_DRAFTS


class ParallelModel(StudentKind):
    """See above."""

    name = "pard"
    purpose = "a small model that drafts several tokens at once"
    drafts = 8
    starts_as = SmallModel()

    def check(self, teaching: Teaching) -> None:
        """See ``StudentKind``."""
        refuse_options(self.name, teaching, ["layers"])
        if not LEAST_DRAFTS <= teaching.drafts <= MOST_DRAFTS:
            raise PocketspecError(f"--drafts {teaching.drafts}; write {LEAST_DRAFTS} to {MOST_DRAFTS}")
        _mask(teaching)

    def student(self, teaching: Teaching) -> nn.Module:
        """See ``StudentKind``."""
        model = SmallModel().student(teaching)
        model.config.update({MASK_KEY: _mask(teaching), LONGEST_KEY: teaching.drafts})
        return model

    def objective(self, teaching: Teaching, lessons: Lessons) -> Objective:
        """See ``StudentKind``; PocketspecError if the lessons have the token that stands for unknown ones."""
        mask = _mask(teaching)
        if (lessons.corpus.tokens == mask).any():
            raise PocketspecError(
                f"the target writes token {mask}, which is to stand for unknown ones; give its tokenizer a padding"
                " token"
            )
        return ParallelObjective(lessons, mask, teaching.drafts)

    def hits(self, student: Any, task: Any, text: HeldOutText, drafts: int) -> DraftHits:
        """See ``StudentKind``: one forward over the text and, behind each of its tokens, the masks of a draft."""
        count = len(text.tokens)
        rows = [np.arange(count), *(np.arange(text.begin - 1 + block, count) for block in range(1, drafts))]
        blocks = np.concatenate([np.full(len(part), block) for block, part in enumerate(rows)])
        places = np.concatenate(rows)
        (fed,) = tensors_for(student, text.tokens[places][None].astype(np.int64))
        logits = MaskedRows(blocks, places).logits(student, fed, task.mask)
        chosen = logits[0].argmax(-1).cpu().numpy()
        found = np.zeros((count, drafts), np.bool_)
        known = places < count - 1
        blocks, places, chosen = blocks[known], places[known], chosen[known]
        found[places - blocks, blocks] = chosen == text.tokens[places + 1]
        return found[text.begin - 1 : -1]


def _mask(teaching: Teaching) -> int:
    return mask_token(teaching.tokenizer, read_size(teaching.config, "vocab_size"))
