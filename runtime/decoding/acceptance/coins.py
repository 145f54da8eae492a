"""The random decisions of acceptance rules: from a hash in production, exhaustively in tests.

A rule asks only these two questions. So a test can follow every possible answer, weigh it by its probability, and
compute the exact distribution of what the production code emits.
"""

from __future__ import annotations

from typing import Protocol

from runtime.decoding.acceptance.distributions import Probs
from runtime.decoding.sampling import RandomStream, draw, uniform


class Coins(Protocol):
    """A source of random decisions, each independent of the ones before."""

    def accept(self, probability: float) -> bool:
        """True with ``probability``, at least 0; 1 and more is certain."""
        ...

    def draw(self, probs: Probs) -> int:
        """A token from ``probs``, ``[vocab]``, which need not be normalized."""
        ...


class StepCoins:
    """The verifier's random numbers for the step whose first new token is at ``position``."""

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
        return uniform(self._seed, self._position, RandomStream.VERIFIER, self._index)
