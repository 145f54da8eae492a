"""What drafting while the target verifies is expected to bring (PEARL, arXiv 2408.11850).

A step finds a draft ready or finds none. Which of the two depends by chance on the step before, so steps are a Markov
chain of two states, and the share of steps with a draft is that of its stationary distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from memory.expected import chain_tokens


@dataclass(frozen=True)
class StepSeconds:
    """Seconds of the target without a draft and with one, and of the drafter for a draft and one token more."""

    plain: float
    verifying: float
    drafting: float


def overlap_step(chances: Sequence[float], seconds: StepSeconds) -> tuple[float, float]:
    """Tokens and seconds of an average step.

    ``chances[d]`` is the chance that the d-th token drafted behind the text is right, given that all before it are. The
    first of them must equal the token that the target adds itself; the last is drafted behind the draft, for the next
    step. So drafts have ``len(chances) - 2`` tokens. Target and drafter work at the same time: a step takes as long as
    the slower of the two.
    """
    ready = _share(chances[0], prod(chances[1:]))
    tokens = (1 - ready) + ready * chain_tokens(chances[1:-1])
    waiting, verifying = (max(spent, seconds.drafting) for spent in (seconds.plain, seconds.verifying))
    return tokens, (1 - ready) * waiting + ready * verifying


def _share(begin: float, stay: float) -> float:
    """The stationary share of a state that is entered with chance ``begin`` and kept with chance ``stay``."""
    return begin / (begin + 1 - stay) if begin else 0.0
