"""What drafting while the target verifies is expected to bring (PEARL, arXiv 2408.11850), in ``expected``'s manner.

A step has a draft that is ready or it has none; which of the two comes next is a chance, so steps are a chain of two
states, and in the long run a share of them has a draft.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from memory.expected import chain_tokens


@dataclass(frozen=True)
class StepSeconds:
    """What a step takes: the target without a draft and with one, and the drafter for one token more than a draft."""

    plain: float
    verifying: float
    drafting: float


def overlap_step(chances: Sequence[float], seconds: StepSeconds) -> tuple[float, float]:
    """Tokens and seconds of a step, on average.

    Drafts have ``len(chances) - 2`` tokens, and a step that finds none ready has none. ``chances[d]`` is the chance of
    the d-th token drafted behind the text, given that all before it are right. The first is held against the token that
    the target adds itself, and the last is the one drafted behind the draft. A step takes as long as the slower of the
    two.
    """
    ready = _share(chances[0], prod(chances[1:]))
    tokens = (1 - ready) + ready * chain_tokens(chances[1:-1])
    waiting, verifying = (max(spent, seconds.drafting) for spent in (seconds.plain, seconds.verifying))
    return tokens, (1 - ready) * waiting + ready * verifying


def _share(begin: float, stay: float) -> float:
    """The share of steps in a state that is entered with chance ``begin`` and kept with chance ``stay``."""
    return begin / (begin + 1 - stay) if begin else 0.0
