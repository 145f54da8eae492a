"""What the scheduler has learned of its decoding methods, kept from answer to answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from runtime.scheduler.forecast import Forecast, Room
from runtime.scheduler.latency import LatencyEstimates
from runtime.scheduler.loss_budget import LossBudget
from runtime.scheduler.methods import DecodingMethod

# Drafts may lose this many plain steps at once against plain decoding, and this share of the time; trials may lose as
# much against the best known method. Over 100 tokens that is 3 steps, which leaves 0.95 of plain decoding's rate if
# costs are known to within 2%.
_LOST_STEPS, _LOST_SHARE = 2.0, 0.01
# Weight of earlier answers in a new one.
_NEXT_ANSWER = 0.75


@dataclass
class Tally:
    """Tokens a second expected of a method when it was last weighed, and what it delivered."""

    expected: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    # The total of tokens, over all answers, when it was last picked; before the first time, long ago.
    latest: float = float("-inf")


@dataclass(frozen=True)
class Prospect:
    """For a user who asks why: a decoding method, its expected and realised tokens/s (None: not tried), its tokens."""

    name: str
    expected: float
    realised: float | None
    tokens: int


class LearnedState:
    """Everything about the decoding methods that outlasts an answer."""

    def __init__(self, methods: Sequence[DecodingMethod], latency: LatencyEstimates) -> None:
        self.methods: dict[str, DecodingMethod] = {}
        self.latency = latency
        self.tallies: dict[str, Tally] = {}
        self.loss_budget = LossBudget(_LOST_SHARE, _LOST_STEPS)
        self.trial_budget = LossBudget(_LOST_SHARE, _LOST_STEPS)
        # Of all answers.
        self.tokens = 0
        self._forecasts: dict[str, tuple[object, list[Forecast]]] = {}
        self._turn = 0
        for method in methods:
            self.add(method)

    def add(self, method: DecodingMethod) -> None:
        """Adds a method unless it is there."""
        if method.name not in self.methods:
            self.methods[method.name], self.tallies[method.name] = method, Tally()

    def begin_answer(self) -> None:
        """The next text may be of another kind, so what the last one showed counts less."""
        for acceptance in {each for method in self.methods.values() for each in method.acceptances}:
            acceptance.forget(_NEXT_ANSWER)
            acceptance.text.end()

    def count(self, method: str, tokens: int, seconds: float, again: bool) -> None:
        """``method`` delivered ``tokens`` in ``seconds``. With ``again`` it may be tried again at once."""
        self.tokens += tokens
        tally = self.tallies[method]
        tally.tokens, tally.seconds = tally.tokens + tokens, tally.seconds + seconds
        tally.latest = tally.latest if again else self.tokens

    def forecasts(self, room: Room) -> dict[str, list[Forecast]]:
        """The forecasts of every method.

        They are made anew where the method's statistics have changed. The others take turns, since what the text has
        shown of one method says a little about all.
        """
        self._turn = (self._turn + 1) % max(len(self.methods), 1)
        for place, (name, method) in enumerate(self.methods.items()):
            key = (room, self.latency.version, [each.version for each in method.acceptances])
            known = self._forecasts.get(name)
            if known is None or known[0] != key or place == self._turn or not method.levels:
                found = [method.forecast(limit, self.latency) for limit in method.limits(room)]
                self._forecasts[name] = key, found
                best = max((forecast.rate for forecast in found), default=0.0)
                self.tallies[name].expected = best / self.latency.slowdown
        return {name: forecasts for name, (_, forecasts) in self._forecasts.items()}

    def prospects(self) -> list[Prospect]:
        """What was expected and realised, the best first."""
        found = [
            Prospect(name, tally.expected, tally.tokens / tally.seconds if tally.seconds else None, tally.tokens)
            for name, tally in self.tallies.items()
            if tally.expected
        ]
        return sorted(found, key=lambda prospect: -prospect.expected)


def explanation_lines(prospects: Sequence[Prospect], no_trees: str | None = None) -> Iterator[str]:
    """A table with a line for each of ``prospects``; ``no_trees`` says why none drafts trees, None if they may."""
    if not prospects:
        yield "note: nothing to explain: the way to decode was given, or there is only one"
        return
    width = max(len(prospect.name) for prospect in prospects)
    yield f"{'':{width}}  expected  realised  tokens"
    for prospect in prospects:
        realised = "-" if prospect.realised is None else f"{prospect.realised:.1f}"
        yield f"{prospect.name:{width}}  {prospect.expected:8.1f}  {realised:>8}  {prospect.tokens:6}"
    if no_trees is not None:
        yield f"no trees: {no_trees}"
