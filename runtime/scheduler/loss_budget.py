"""How much may be lost: a budget that time refills and that wrong drafts are charged to.

Two budgets keep the scheduler honest. The loss budget compares with plain decoding, whose rate needs no exploration: it
is the baseline of a conservative bandit (Wu et al. 2016, arXiv 1602.04282), and no draft is begun that could overdraw
it if every token were wrong. The trial budget compares with the best known method and pays for exploration.

Both count in plain steps of the moment. A step is charged what it was expected to take with the draft it had, not what
it took: a hiccup says nothing about drafts, and a machine that slows down slows plain decoding as well. Lasting changes
enter later expectations (``latency.py``). The balance never falls below 0, so no single moment keeps drafts away for
long.
"""

from __future__ import annotations


class LossBudget:
    """Plain steps that may be lost: ``most`` at first and at most, refilled by a ``share`` of the time that passes."""

    def __init__(self, share: float, most: float) -> None:
        self._share, self._most = share, most
        self.balance = most

    def settle(self, won: float, steps: float) -> None:
        """``won`` plain steps were won (below 0: lost) in the time of ``steps`` plain steps."""
        self.balance = min(max(self.balance + won + self._share * steps, 0.0), self._most)

    @property
    def affordable(self) -> float:
        """The most that may be risked at once: all of a full balance, else half, so that a smaller draft can follow."""
        return self.balance if self.is_full else self.balance / 2

    @property
    def is_full(self) -> bool:
        """Whether nothing was lost of late."""
        return self.balance >= self._most
