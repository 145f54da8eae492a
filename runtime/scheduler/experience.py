"""What a scheduler has learned of its ways to decode, kept from answer to answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.decode import Step
from runtime.scheduler.account import Account
from runtime.scheduler.speeds import Speeds
from runtime.scheduler.ways import Family, Forecast

# What delivered steps say about later forecasts: 100 steps or so, against 30 that went as forecast. Heuristics.
_TRUST_MEMORY, _TRUST_PRIOR = 0.99, 30.0
# What other answers have shown counts so much in a new one. A heuristic.
_NEXT_ANSWER = 0.75
# What was seen of those who are not used counts so much after every choice.
_UNUSED = 0.9
# A way that is picked no more is forgiven this share of what it failed to deliver, every time something is chosen.
_FORGIVEN = 0.02


@dataclass
class Tally:
    """Tokens a second that were expected when it was last weighed, and what was delivered."""

    expected: float = 0.0
    tokens: int = 0
    seconds: float = 0.0

    def add(self, step: Step) -> None:
        """One step more."""
        self.tokens += len(step.tokens)
        self.seconds += step.seconds


@dataclass(frozen=True)
class Prospect:
    """For a user who asks why: a way to decode, tokens/s expected of it now and realised (None: not tried), tokens."""

    name: str
    expected: float
    realised: float | None
    tokens: int


class Trust:
    """How far one family's steps delivered the rates that were forecast for them, running."""

    def __init__(self) -> None:
        self._tokens = self._seconds = self._steps = 0.0
        self._forecast_tokens = self._forecast_seconds = 0.0

    def add(self, forecast: Forecast, step: Step) -> None:
        """One step that was taken on ``forecast``."""
        self._fade(_TRUST_MEMORY)
        self._tokens, self._seconds, self._steps = (
            self._tokens + len(step.tokens),
            self._seconds + step.seconds,
            self._steps + 1,
        )
        self._forecast_tokens += forecast.tokens
        self._forecast_seconds += forecast.seconds

    def forgive(self) -> None:
        """What was not tried may have changed."""
        self._fade(1 - _FORGIVEN)

    @property
    def kept(self) -> float:
        """Delivered over forecast; near 1 while there are few steps."""
        if self._steps <= 0:
            return 1.0
        more = 1 + _TRUST_PRIOR / self._steps
        tokens, seconds = self._forecast_tokens, self._forecast_seconds
        delivered = (self._tokens + (more - 1) * tokens) / (self._seconds + (more - 1) * seconds)
        return delivered / (tokens / seconds)

    def _fade(self, share: float) -> None:
        self._tokens, self._seconds, self._steps = self._tokens * share, self._seconds * share, self._steps * share
        self._forecast_tokens, self._forecast_seconds = self._forecast_tokens * share, self._forecast_seconds * share


class Experience:
    """What a scheduler has learned of its families, kept from answer to answer."""

    def __init__(self, families: Sequence[Family], speeds: Speeds) -> None:
        self.families: dict[str, Family] = {}
        self.speeds = speeds
        self.tallies: dict[str, Tally] = {}
        self.trust: dict[str, Trust] = {}
        self.allowance = 0.0
        self.account = Account()
        self.has_begun = False
        for family in families:
            self.admit(family)

    def admit(self, family: Family) -> None:
        """One family more, unless it is there."""
        if family.name not in self.families:
            self.families[family.name] = family
            self.tallies[family.name], self.trust[family.name] = Tally(), Trust()

    def begin_answer(self) -> None:
        """The next text may be of another kind: what was seen of the last one counts less."""
        for acceptance in {each for family in self.families.values() for each in family.acceptances}:
            acceptance.forget(_NEXT_ANSWER)
            acceptance.text.end()

    def age(self, used: Family | None) -> None:
        """What those show who are not used now was seen in another paragraph."""
        kept = used.acceptances if used is not None else ()
        for acceptance in {each for family in self.families.values() for each in family.acceptances}:
            if acceptance not in kept:
                acceptance.forget(_UNUSED)

    def allow_introductions(self, seconds: float) -> None:
        """What trials may lose at first, before any time was spent; once."""
        if not self.has_begun:
            self.has_begun = True
            self.allowance += seconds

    def prospects(self) -> list[Prospect]:
        """What was expected and realised, the best first."""
        found = [
            Prospect(name, tally.expected, tally.tokens / tally.seconds if tally.seconds else None, tally.tokens)
            for name, tally in self.tallies.items()
            if tally.expected
        ]
        return sorted(found, key=lambda prospect: -prospect.expected)
