"""Where acceptance rules get their randomness: from a hash in production, from every outcome in turn in the proofs.

A rule asks nothing but these two questions, so a test can branch over all answers, weigh each by its probability, and
so compute the exact law of what the very code that runs in production emits.
"""

from __future__ import annotations

from typing import Protocol

from runtime.decoding.acceptance.distributions import Probs
from runtime.decoding.sampling import Stream, draw, uniform


class Coins(Protocol):
    """A source of random decisions, each independent of those before it."""

    def accept(self, probability: float) -> bool:
        """True with ``probability``, at least 0; 1 and more is certain."""
        ...

    def draw(self, probs: Probs) -> int:
        """A token from ``probs``, ``[vocab]``, up to a factor."""
        ...


class StepCoins:
    """The verifier's own numbers for the step whose first new token stands at ``position``."""

    def __init__(self, seed: int, position: int) -> None:
        self._seed = seed
        self._position = position
        self._index = 0

    def accept(self, probability: float) -> bool:
        """See ``Coins``."""
        return self._next() < probability

    def draw(self, probs: Probs) -> int:
        """See ``Coins``."""
        return draw(probs, self._next())

    def _next(self) -> float:
        self._index += 1
        return uniform(self._seed, self._position, Stream.VERIFIER, self._index)
