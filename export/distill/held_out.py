"""How good drafts are, on texts that the target wrote and that nothing learns from.

A draft behind a token of the target's text is right as far as it is that text, and a drafter that has drafted rightly
reads the same tokens as the text has. So drafts behind every token of a text, all made at once, say how long every
draft of a greedy answer would stand, and how many steps the answer would take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.distill.corpus import IdStream

# bool [tokens of an answer, drafts]: whether the draft so many places behind a token is what the target wrote there.
DraftHits = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class HeldOutText:
    """A prompt and the target's greedy answer, which begins at token ``begin`` (at least 1)."""

    tokens: IdStream
    begin: int


@dataclass(frozen=True)
class DraftQuality:
    """``agreement`` is, by position in a draft, how often it is what the target says where all before it is.

    ``tokens_a_step`` is how many tokens a step of greedy decoding brings, the target's own included.
    """

    agreement: tuple[float, ...]
    tokens_a_step: float

    def __str__(self) -> str:
        shares = " ".join(f"{share:.3f}" for share in self.agreement)
        return f"agreement by position {shares}; {self.tokens_a_step:.2f} tokens a step"


def draft_quality(answers: Sequence[DraftHits]) -> DraftQuality:
    """The quality of the drafts of all answers."""
    tokens = sum(len(hits) for hits in answers)
    steps = sum(_steps(hits) for hits in answers)
    stands = np.logical_and.accumulate(np.concatenate(list(answers)), 1).sum(0)
    reached = np.array([tokens, *stands[:-1]])
    return DraftQuality(tuple((stands / np.maximum(reached, 1)).tolist()), tokens / steps)


def follow(right: npt.NDArray[np.bool_], drafts: int) -> DraftHits:
    """The hits of a model that drafts one token after another; ``right`` are its first choices for each token."""
    padded = np.pad(right, (0, drafts))
    return np.lib.stride_tricks.sliding_window_view(padded, drafts)[: len(right)].copy()


def _steps(hits: DraftHits) -> int:
    """The steps in which an answer is written, each with as many drafts as ``hits`` has columns."""
    stands = np.logical_and.accumulate(hits, 1).sum(1)
    place = steps = 0
    while place < len(hits):
        place, steps = place + int(stands[place]) + 1, steps + 1
    return steps
