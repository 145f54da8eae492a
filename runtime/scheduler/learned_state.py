"""What a scheduler has learned of its ways to decode, kept from answer to answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.scheduler.forecast import Forecast, Room
from runtime.scheduler.latency import Speeds
from runtime.scheduler.loss_budget import Budget
from runtime.scheduler.methods import Family, forecasts_of

# What drafts may lose against plain decoding, and trials against the best way that is known: so many plain steps at
# once, and this share of the time. In 100 tokens these are 3 steps, so that 0.95 of plain decoding's rate are left if
# costs are known to within 2%.
_LOST_STEPS, _LOST_SHARE = 2.0, 0.01
# What other answers have shown counts so much in a new one. A heuristic.
_NEXT_ANSWER = 0.75


@dataclass
class Tally:
    """Tokens a second that were expected when it was last weighed, and what was delivered."""

    expected: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    # How many tokens there were when it was picked last, of all answers; before the first time, long ago.
    latest: float = float("-inf")


@dataclass(frozen=True)
class Prospect:
    """For a user who asks why: a way to decode, tokens/s expected of it now and realised (None: not tried), tokens."""

    name: str
    expected: float
    realised: float | None
    tokens: int


class Experience:
    """What a scheduler has learned of its families, kept from answer to answer."""

    def __init__(self, families: Sequence[Family], speeds: Speeds) -> None:
        self.families: dict[str, Family] = {}
        self.speeds = speeds
        self.tallies: dict[str, Tally] = {}
        self.account = Budget(_LOST_SHARE, _LOST_STEPS)
        self.allowance = Budget(_LOST_SHARE, _LOST_STEPS)
        # Of all answers.
        self.tokens = 0
        self._forecasts: dict[str, tuple[object, list[Forecast]]] = {}
        self._turn = 0
        for family in families:
            self.admit(family)

    def admit(self, family: Family) -> None:
        """One family more, unless it is there."""
        if family.name not in self.families:
            self.families[family.name], self.tallies[family.name] = family, Tally()

    def begin_answer(self) -> None:
        """The next text may be of another kind: what was seen of the last one counts less."""
        for acceptance in {each for family in self.families.values() for each in family.acceptances}:
            acceptance.forget(_NEXT_ANSWER)
            acceptance.text.end()

    def count(self, family: str, tokens: int, seconds: float, again: bool) -> None:
        """So many tokens were delivered in so many seconds; with ``again`` the family stays as stale as it was."""
        self.tokens += tokens
        tally = self.tallies[family]
        tally.tokens, tally.seconds = tally.tokens + tokens, tally.seconds + seconds
        tally.latest = tally.latest if again else self.tokens

    def forecasts(self, room: Room) -> dict[str, list[Forecast]]:
        """Those of every family: anew where what it knows has changed, and of the others one in turn, since what the
        text has shown of one says a little of all."""
        self._turn = (self._turn + 1) % max(len(self.families), 1)
        for place, (name, family) in enumerate(self.families.items()):
            key = (room, self.speeds.version, [each.version for each in family.acceptances])
            known = self._forecasts.get(name)
            if known is None or known[0] != key or place == self._turn or not family.levels:
                found = forecasts_of(family, self.speeds, room)
                self._forecasts[name] = key, found
                best = max((forecast.rate for forecast in found), default=0.0)
                self.tallies[name].expected = best / self.speeds.slowness
        return {name: forecasts for name, (_, forecasts) in self._forecasts.items()}

    def prospects(self) -> list[Prospect]:
        """What was expected and realised, the best first."""
        found = [
            Prospect(name, tally.expected, tally.tokens / tally.seconds if tally.seconds else None, tally.tokens)
            for name, tally in self.tallies.items()
            if tally.expected
        ]
        return sorted(found, key=lambda prospect: -prospect.expected)
