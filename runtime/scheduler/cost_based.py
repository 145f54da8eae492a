"""Picks what is expected to be fastest, and never pays more than a little to find out whether that is still so.

The objective is delivered tokens a second. Forecasts (``ways.py``) come from measured costs and running acceptance.
Plain decoding is one of the ways, so speculation that does not pay switches itself off, and an account (``account.py``)
bounds what may be lost against it whatever was forecast: what is left of it decides how large a draft may be. What is
not picked is tried again now and then, as cheaply as it can be, from an allowance; a trial that stands as a whole is
followed by one twice as large, so what has become good is back within a few steps.

Choosing costs time, too. It is measured, and where models are small a choice stands for more steps, and not every step
is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import NamedTuple, Protocol

from runtime.decoding.draft import NOTHING, Pick, Step, chain_limit
from runtime.scheduler.forecast import NEARLY, Forecast, Room, fastest
from runtime.scheduler.latency import FEW_ROWS, Speeds
from runtime.scheduler.learned_state import Experience
from runtime.scheduler.methods import Family
from runtime.scheduler.methods.plain import Plain

# Choosing may take this share of the time; a choice that stands for many steps is looked at so often meanwhile.
_CHOOSING, _LOOKS = 0.004, 16
# Tokens after which what was not picked may be tried again.
_STALE_TOKENS = 16
# Trials of what could not reach this share of the best rate, even if every token stood, teach nothing: forecasts of
# seconds are not that wrong.
_HOPELESS = 0.6
# Tokens over which it pays that a drafter which has not followed the text must read it first.
_HORIZON_TOKENS = 64.0
# Sure drafts may be so much longer than those that pay on average; no floor is above this, or nothing would be learnt.
_LONGER, _HIGHEST_FLOOR = 3, 0.8
_DEARER = 1.5


class Situation(Protocol):
    """How things are at the moment of a choice."""

    def room(self) -> Room:
        """What drafts may have now."""
        ...

    def length(self) -> int:
        """Tokens of the text so far."""
        ...

    def behind(self, level: str) -> int | None:
        """Rows that a level must read before it can draft; None: it is not open."""
        ...


@dataclass(frozen=True)
class _Offer:
    """What a family promises: the best of its drafts that may be lost now (None: there is none), all ``forecasts``,
    the seconds until its models have read the text, and those of a token."""

    family: Family
    forecasts: Sequence[Forecast]
    best: Forecast | None
    begin_seconds: float
    per_token: float


class _Course(NamedTuple):
    """What is done until the next choice, and the seconds that could be ``lost`` if no drafted token stood.

    A trial is held against ``per_token`` seconds a token, and has to pay for reading the text.
    """

    forecast: Forecast
    pick: Pick
    lost: float
    is_trial: bool = False
    per_token: float = 0.0
    begin_seconds: float = 0.0


class CostScheduler:
    """One answer's policy. ``clock`` tells seconds, to know what choosing itself costs."""

    def __init__(self, experience: Experience, situation: Situation, clock: Callable[[], float] = perf_counter) -> None:
        self._experience, self._situation, self._clock = experience, situation, clock
        experience.begin_answer()
        self._plain_way = Plain()
        self._has_plain = self._plain_way.name in experience.families
        self._main: _Offer | None = None
        self._course = self._usual = self._stopped()
        # Steps until the next choice; of them those that may go by without a look, at once and now.
        self._left = self._between = self._unseen = self._skipped = self._unlearnt = 0

    def pick(self, last: Step | None) -> Pick:
        """See ``Scheduler``."""
        self._left -= 1
        if self._unseen > 0:
            self._unseen -= 1
            return self._course.pick
        if last is not None:
            self._observe(last)
        if last is None or self._left < 0:
            self._choose()
        elif self._course.lost > self._affordable() and not self._experience.account.is_full:
            self._course = self._stopped()
        if self._course.forecast.drafter is None:
            self._unseen = self._skipped = min(self._between, self._left)
        return self._course.pick

    def _observe(self, step: Step) -> None:
        """Settles what a step has won or lost, and learns from it."""
        experience, course, skipped = self._experience, self._course, self._skipped
        forecast, tokens, speeds = course.forecast, len(step.tokens), experience.speeds
        plain, expected = speeds.plain(), speeds.expected(forecast, step.num_drafted)
        won = tokens * plain - expected if forecast.drafter is not None else 0.0
        experience.account.settle(won / plain, expected / plain + skipped)
        won = tokens * course.per_token - expected - course.begin_seconds if course.is_trial else 0.0
        experience.allowance.settle(won / plain, expected / plain + skipped)
        # A trial that stood as a whole may be repeated at once, as far as the allowance goes.
        again = course.is_trial and 0 < step.num_drafted == step.num_accepted
        experience.count(forecast.family, tokens + skipped, step.seconds + skipped * plain, again)
        self._skipped = 0
        self._unlearnt -= 1
        if self._unlearnt < 0 or forecast.drafter is None or course.is_trial:
            self._unlearnt = self._between
            speeds.saw(forecast, step)
            experience.families[forecast.family].observe(step)
        if course.is_trial:
            self._course = self._usual

    def _choose(self) -> None:
        """The best way from here on, or once in a while one that is to be tried again."""
        start, experience = self._clock(), self._experience
        experience.speeds.at(self._situation.length())
        offers = list(self._offers())
        self._main = main = self._best(offers)
        self._usual = self._begun(main)
        self._course = self._trial(offers, main) or self._usual
        spent = self._clock() - start
        self._left = int(spent / (_CHOOSING * self._usual.forecast.seconds * experience.speeds.slowness))
        self._between = self._unlearnt = self._left // _LOOKS

    def _offers(self) -> Iterator[_Offer]:
        """Of every family whose models are open and that there is room for."""
        experience, room = self._experience, self._situation.room()
        most = experience.speeds.plain() + self._affordable()
        is_full = experience.account.is_full
        behind = _Behind(self._situation, experience.speeds)
        for name, forecasts in experience.forecasts(room).items():
            family = experience.families[name]
            begin = behind.seconds(family)
            if begin is not None and forecasts:
                # Where even the smallest draft is a large risk, that is taken as soon as there is something to lose.
                least = min(each.seconds for each in forecasts) if is_full else most
                best = fastest([each for each in forecasts if each.seconds <= max(most, least)])
                per_token = best.seconds / best.tokens + begin / _HORIZON_TOKENS if best is not None else float("inf")
                yield _Offer(family, forecasts, best, begin, per_token)

    def _best(self, offers: Sequence[_Offer]) -> _Offer:
        """The fastest; that of the family at work unless another one is clearly faster; else plain decoding."""
        best = min(offers, key=lambda offer: offer.per_token, default=None)
        if best is None or best.best is None:
            self._experience.admit(self._plain_way)
            plain = self._stopped().forecast
            return _Offer(self._plain_way, [plain], plain, 0.0, plain.seconds)
        if self._main is not None:
            held = next((offer for offer in offers if offer.family is self._main.family), best)
            best = held if NEARLY * held.per_token < best.per_token else best
        return best

    def _begun(self, offer: _Offer) -> _Course:
        """The best draft, longer where the drafter is sure and shorter where it is not.

        One token more pays if its chance of being accepted is above what it costs at the rate that is to be had
        (renewal reward: time spent on it could bring so many tokens otherwise).
        """
        forecast, speeds, plain = offer.best, self._experience.speeds, self._experience.speeds.plain()
        assert forecast is not None
        if not forecast.node_seconds:
            return _Course(forecast, forecast.pick, forecast.seconds - plain)
        most = plain + self._affordable()
        longest, per_node = forecast.limit, forecast.node_seconds
        for longer in range(longest.nodes + 1, min(longest.nodes + _LONGER, self._situation.room().nodes) + 1):
            limit = chain_limit(longer)
            seconds = offer.family.forecast(limit, speeds).seconds
            # Beyond a block of rows that kernels run at once, the next ones cost more than those before.
            dear = seconds - forecast.seconds > (longer - forecast.limit.nodes) * _DEARER * per_node
            if dear or seconds > most:
                break
            longest = limit
        floor = min(per_node / offer.per_token, _HIGHEST_FLOOR)
        pick = Pick(forecast.drafter, replace(longest, floor=floor))
        return _Course(forecast, pick, offer.family.forecast(longest, speeds).seconds - plain)

    def _trial(self, offers: Sequence[_Offer], best: _Offer) -> _Course | None:
        """What was not tried for long, in the draft that loses least, if the allowance pays for that."""
        experience, plain = self._experience, self._experience.speeds.plain()
        for offer in sorted(offers, key=lambda offer: experience.tallies[offer.family.name].latest):
            family = offer.family
            if family is best.family or experience.tokens - experience.tallies[family.name].latest < _STALE_TOKENS:
                continue
            if any(other is not offer and _shows_more(other, offer) for other in (best, *offers)):
                continue
            highest = max((1 + each.limit.depth) / each.seconds for each in offer.forecasts)
            forecast = min(offer.forecasts, key=lambda each: each.seconds - each.tokens * best.per_token)
            loss = forecast.seconds - forecast.tokens * best.per_token + offer.begin_seconds
            lost = forecast.seconds - plain
            is_paid = loss <= experience.allowance.affordable * plain and lost <= self._affordable()
            if is_paid and highest * best.per_token > _HOPELESS:
                return _Course(forecast, forecast.pick, lost, True, best.per_token, offer.begin_seconds)
        return None

    def _affordable(self) -> float:
        """Seconds that may be lost against plain decoding in one step; where that is no choice, all there are."""
        experience = self._experience
        return experience.account.affordable * experience.speeds.plain() if self._has_plain else float("inf")

    def _stopped(self) -> _Course:
        """Plain decoding."""
        forecast = self._plain_way.forecast(NOTHING, self._experience.speeds)
        return _Course(forecast, forecast.pick, 0.0)


def _shows_more(one: _Offer, other: _Offer) -> bool:
    """Whether all that ``other`` could show is shown by ``one`` as well, and that is no slower."""
    levels, seen = other.family.levels, set(one.family.acceptances)
    return bool(levels) and set(other.family.acceptances) <= seen and one.per_token <= other.per_token


class _Behind:
    """What models must read before they can draft, looked up once for each."""

    def __init__(self, situation: Situation, speeds: Speeds) -> None:
        self._situation, self._speeds = situation, speeds
        self._known: dict[str, float | None] = {}

    def seconds(self, family: Family) -> float | None:
        """Of all models of a family; None if one of them is not open."""
        total = 0.0
        for level in family.levels:
            if level not in self._known:
                self._known[level] = self._of(level)
            seconds = self._known[level]
            if seconds is None:
                return None
            total += seconds
        return total

    def _of(self, level: str) -> float | None:
        behind = self._situation.behind(level)
        if behind is None:
            return None
        return self._speeds.forward(level, behind) if behind > FEW_ROWS else 0.0
