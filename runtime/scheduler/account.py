"""What decoding may lose against plain decoding: never more than a small share of all time.

Plain decoding is the one way whose rate needs no trial, so it is the baseline of a conservative bandit (Wu et al. 2016,
arXiv 1602.04282): whatever is faster pays in, whatever is slower is paid from that, and nothing is begun that could
overdraw the account if every draft were wrong.
"""

from __future__ import annotations

# The share of time that may be lost in the long run.
_SHARE = 0.005
# What is known of drafters before they were seen is little: so many plain steps may be lost on it, once.
_CREDIT_STEPS = 2.0
# What was won long ago does not pay for what is lost now: no more than so many plain steps are kept.
_MOST_STEPS = 16.0


class Account:
    """Seconds won over plain decoding. ``affords`` says no while there is not enough to lose."""

    def __init__(self) -> None:
        self._balance: float | None = None

    def settle(self, tokens: int, seconds: float, plain_seconds: float) -> None:
        """A step that brought ``tokens``, of which plain decoding brings one in ``plain_seconds``."""
        balance = self._opened(plain_seconds) + tokens * plain_seconds - (1 - _SHARE) * seconds
        self._balance = min(balance, _MOST_STEPS * plain_seconds)

    def affords(self, loss: float, plain_seconds: float) -> bool:
        """Whether so many seconds may be lost."""
        return loss <= self._opened(plain_seconds)

    def _opened(self, plain_seconds: float) -> float:
        return _CREDIT_STEPS * plain_seconds if self._balance is None else self._balance
