"""What may be lost: a budget that fills with time and is charged with what was risked in vain.

Two of them keep a scheduler honest. The account holds against plain decoding, the one way whose rate needs no trial; so
it is the baseline of a conservative bandit (Wu et al. 2016, arXiv 1602.04282), and nothing is begun that could overdraw
the account if every draft were wrong. The allowance holds against the best way that is known: it pays for trials.

Both count plain steps as they go at the moment, and charge what a step was expected to take with what it drafted, not
what it took: a step that is held up says nothing of drafts, and a machine that slows down slows plain decoding as well.
What lasts is in later expectations (``speeds.py``). There are no debts, so no moment keeps drafts away for long.
"""

from __future__ import annotations


class Budget:
    """Plain steps that may be lost: ``most`` to begin with and at most, filled by a ``share`` of the time."""

    def __init__(self, share: float, most: float) -> None:
        self._share, self._most = share, most
        self.balance = most

    def settle(self, won: float, steps: float) -> None:
        """In the time of so many plain steps so many were won; less than 0: lost."""
        self.balance = min(max(self.balance + won + self._share * steps, 0.0), self._most)

    @property
    def affordable(self) -> float:
        """The most that may be lost at once: half of what there is, so that something smaller can follow; all of it
        while nothing was lost of late."""
        return self.balance if self.is_full else self.balance / 2

    @property
    def is_full(self) -> bool:
        """Whether there is as much as there can be."""
        return self.balance >= self._most
