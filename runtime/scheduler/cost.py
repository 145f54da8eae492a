"""Picks what is expected to be fastest, and never pays more than a little to find out whether that is still so.

The objective is delivered tokens a second. Forecasts (``ways.py``) come from measured costs and running acceptance;
windows of what was really delivered correct them and raise the alarm. Plain decoding is one of the ways, so speculation
that does not pay switches itself off, and an account (``account.py``) bounds what may be lost against it whatever was
forecast. What is not picked is tried again now and then, but only from an allowance: less than a hundredth of the time
spent, filled step by step, pays for what a trial is expected to lose against the best way. Who was never seen is
introduced at the beginning, once, on a small credit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Protocol

from runtime.decode import Step
from runtime.scheduler import NOTHING, PLAIN_NAME, Pick
from runtime.scheduler.experience import Experience
from runtime.scheduler.families.plain import Plain
from runtime.scheduler.speeds import FEW_ROWS
from runtime.scheduler.ways import Family, Forecast, Room, best_forecast

# The share of time that trials may lose.
_ALLOWANCE = 0.007
# What is saved up for trials pays for so many plain steps at most.
_MOST_SAVED_STEPS = 12.0
# To begin with, trials may lose so many plain steps, once: what is known of drafters before they were seen is little.
# Who was never picked gets so many steps.
_INTRODUCTIONS, _INTRODUCTION_STEPS = 6.0, 3
# Sure drafts may be so much longer than those that pay on average; no floor is above this, or nothing would be learnt.
_LONGER, _HIGHEST_FLOOR = 3, 0.8
_DEARER = 1.5
# Tokens after which what was not picked may be tried again.
_STALE_TOKENS = 24
# Choosing may take this share of the time: with small models a choice stands for more steps.
_CHOOSING = 0.003
_MIN_STEPS, _MAX_STEPS = 4, 64
# In the first answer most is to be learnt.
_LATER_STEPS = 16
# Tokens over which it pays that a drafter which has not followed the text must read it first.
_HORIZON_TOKENS = 64.0
# Another family must promise so much more, or choices would follow the noise.
_BETTER = 1.03
# A window of steps that delivers less than this share of what was promised calls for another choice.
_DISAPPOINTING = 0.85
_WINDOW_MEMORY = 0.8
# Trials of what could not reach this share of the best rate, even if every token stood, teach nothing.
_HOPELESS = 0.6
# Of steps shorter than this (seconds), what forwards take is looked at only once in so many.
_SHORT_STEP, _GLANCES = 0.002, 4


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


class CostScheduler:
    """One answer's policy. ``clock`` tells seconds, to know what choosing itself costs."""

    def __init__(self, experience: Experience, situation: Situation, clock: Callable[[], float] = perf_counter) -> None:
        self._experience, self._situation, self._clock = experience, situation, clock
        experience.begin_answer()
        self._now: Forecast | None = None
        self._main: Forecast | None = None
        self._left = 0
        self._tokens = 0
        self._tried = dict.fromkeys(experience.families, 0)
        self._window = _Window()
        self._step_seconds = 0.0
        self._trial_steps = 0
        self._most_steps = _LATER_STEPS if experience.has_begun else _MIN_STEPS
        self._forecasts: dict[str, Forecast | None] = {}
        self._turn = 0

    def pick(self, last: Step | None) -> Pick:
        """See ``Scheduler``."""
        if last is not None and self._now is not None:
            self._observe(self._now, last)
        if self._left <= 0 or self._window.disappoints() or self._is_overdrawn():
            self._now = self._choose()
        elif self._now is not self._main:
            self._trial_steps -= 1
            if self._trial_steps <= 0:
                self._now = self._main
        self._left -= 1
        assert self._now is not None
        return self._now.pick

    def _observe(self, now: Forecast, step: Step) -> None:
        experience = self._experience
        speeds, tokens = experience.speeds, len(step.tokens)
        self._tokens += tokens
        self._tried[now.family] = self._tokens
        self._step_seconds = step.seconds
        if step.seconds > _SHORT_STEP or self._left % _GLANCES == 0:
            speeds.saw(now, step)
        if now.pick.drafter is not None:
            experience.families[now.family].observe(step)
        experience.tallies[now.family].add(step)
        experience.allowance += _ALLOWANCE * step.seconds
        plain_seconds = self._plain_seconds() if now.pick.drafter is not None else step.seconds
        experience.account.settle(tokens, step.seconds - _reading_seconds(now, step), plain_seconds)
        if step.finish is None:
            experience.trust[now.family].add(now, step)
            if now is self._main:
                self._window.add(tokens, step.seconds)

    def _choose(self) -> Forecast:
        """The best way from here on, or once in a while one that is to be tried again."""
        start, experience = self._clock(), self._experience
        for name, trust in experience.trust.items():
            if self._now is None or name != self._now.family:
                trust.forgive()
        experience.age(experience.families[self._now.family] if self._now is not None else None)
        experience.speeds.at(self._situation.length())
        offers = [offer for offer in self._offers() if self._affords(self._risk(offer))]
        best = min(offers, key=lambda offer: offer.seconds_per_token, default=None) or self._no_offer()
        if self._main is not None and best.forecast.family != self._main.family:
            held = next((offer for offer in offers if offer.forecast.family == self._main.family), best)
            if held.seconds_per_token < best.seconds_per_token * _BETTER:
                best = held
        self._main = self._adapted(best)
        self._window = _Window(1 / best.seconds_per_token)
        self._left = self._steps_until_next(self._clock() - start)
        return self._trial(offers, best) or self._main

    def _plain_seconds(self) -> float:
        speeds = self._experience.speeds
        return speeds.target(1) + speeds.around("chain", 0)

    def _risk(self, offer: _Offer) -> float:
        """What is lost against plain decoding if the first draft is wrong.

        Reading a prompt is no part of it: the target has read it, too, and it is weighed where ways are compared.
        """
        if not offer.forecast.pick.drafter:
            return 0.0
        return max(0.0, offer.forecast.seconds - self._plain_seconds())

    def _affords(self, loss: float) -> bool:
        """Whether so much may be lost; always, where plain decoding is no choice."""
        experience = self._experience
        return PLAIN_NAME not in experience.families or experience.account.affords(loss, self._plain_seconds())

    def _is_overdrawn(self) -> bool:
        return self._now is not None and self._now.pick.drafter is not None and not self._affords(0.0)

    def _adapted(self, best: _Offer) -> Forecast:
        """The best forecast, its drafts longer where the drafter is sure and shorter where it is not.

        One token more pays if its chance of being accepted is above what it costs at the rate that is to be had
        (renewal reward: time spent on it could bring so many tokens otherwise).
        """
        forecast, speeds = best.forecast, self._experience.speeds
        if not forecast.node_seconds:
            return forecast
        family, limit = self._experience.families[forecast.family], forecast.pick.limit
        most = self._situation.room().nodes
        for length in range(limit.nodes + 1, min(limit.nodes + _LONGER, most) + 1):
            longer = replace(limit, nodes=length, depth=length)
            # Beyond a block of rows that kernels run at once, the next ones cost more than those before.
            if family.forecast(longer, speeds).seconds - forecast.seconds > (length - limit.nodes) * _DEARER * (
                forecast.node_seconds
            ):
                break
            forecast = replace(forecast, pick=replace(forecast.pick, limit=longer))
        floor = min(forecast.node_seconds / best.seconds_per_token, _HIGHEST_FLOOR)
        return replace(forecast, pick=replace(forecast.pick, limit=replace(forecast.pick.limit, floor=floor)))

    def _offers(self) -> list[_Offer]:
        """The best forecast of every family, with what it costs to begin with it."""
        experience, offers = self._experience, []
        for family in self._to_forecast():
            best = best_forecast(family, experience.speeds, self._situation.room())
            self._forecasts[family.name] = best
            if best is not None:
                experience.tallies[family.name].expected = best.rate * experience.trust[family.name].kept
        for family in experience.families.values():
            best = self._forecasts[family.name]
            begin = self._begin_seconds(family) if best is not None else None
            if best is not None and begin is not None:
                kept = experience.trust[family.name].kept
                offers.append(_Offer(best, begin, best.seconds / best.tokens / kept + begin / _HORIZON_TOKENS))
        return offers

    def _no_offer(self) -> _Offer:
        """Plain decoding, where no family may draft now."""
        plain = Plain()
        forecast = plain.forecast(NOTHING, self._experience.speeds)
        self._experience.admit(plain)
        return _Offer(forecast, 0.0, forecast.seconds)

    def _to_forecast(self) -> list[Family]:
        """All families at first; then those whose numbers have changed most, and the others in turn."""
        families = list(self._experience.families.values())
        if not self._forecasts:
            return families
        self._turn = (self._turn + 1) % len(families)
        moving = {self._now.family, self._main.family} if self._now and self._main else set()
        return [
            family
            for place, family in enumerate(families)
            if family.name in moving or place == self._turn or not family.levels
        ]

    def _begin_seconds(self, family: Family) -> float | None:
        """What its models need to read before their first draft; None if one of them is not open."""
        seconds = 0.0
        for level in family.levels:
            behind = self._situation.behind(level)
            if behind is None:
                return None
            if behind > FEW_ROWS:
                seconds += self._experience.speeds.forward(level, behind)
        return seconds

    def _trial(self, offers: Sequence[_Offer], best: _Offer) -> Forecast | None:
        """What has not been tried for long, if the allowance pays for what that may lose."""
        experience, per_token = self._experience, best.seconds_per_token
        experience.allow_introductions(_INTRODUCTIONS * experience.speeds.target(1))
        saved = experience.allowance = min(experience.allowance, _MOST_SAVED_STEPS * experience.speeds.target(1))
        for offer in sorted(offers, key=lambda offer: (self._last_tried(offer), -offer.at_best())):
            forecast = offer.forecast
            # What drafts only where the text repeats itself shows as little in three steps as in one.
            is_new = self._last_tried(offer) < 0 and bool(experience.families[forecast.family].levels)
            steps = _INTRODUCTION_STEPS if is_new else 1
            # Half of what is expected of the draft is taken to come true.
            loss = offer.begin_seconds + steps * (forecast.seconds - per_token * (1 + forecast.tokens) / 2)
            is_stale = self._tokens - self._last_tried(offer) >= _STALE_TOKENS or self._last_tried(offer) < 0
            if forecast is best.forecast or not is_stale or loss > saved or offer.at_best() < _HOPELESS / per_token:
                continue
            experience.allowance -= max(loss, 0.0)
            self._trial_steps = steps
            return forecast
        return None

    def _last_tried(self, offer: _Offer) -> int:
        """The token at which it was picked last, in this answer; -1: never, in any."""
        tried = self._experience.tallies[offer.forecast.family].tokens
        return self._tried[offer.forecast.family] if tried else -1

    def _steps_until_next(self, choosing_seconds: float) -> int:
        """Few at first, when there is most to learn, then as many as choosing is worth."""
        self._most_steps = min(2 * self._most_steps, _MAX_STEPS)
        if not self._step_seconds:
            return _MIN_STEPS
        return min(self._most_steps, max(_MIN_STEPS, int(choosing_seconds / (_CHOOSING * self._step_seconds))))


def _reading_seconds(now: Forecast, step: Step) -> float:
    """What its drafter took to read text that it had not followed."""
    return max(0.0, step.draft_seconds - now.draft_seconds) if step.rows_read > FEW_ROWS else 0.0


@dataclass(frozen=True)
class _Offer:
    forecast: Forecast
    begin_seconds: float
    seconds_per_token: float

    def at_best(self) -> float:
        """Tokens a second if every drafted token stood."""
        return (1 + self.forecast.pick.limit.depth) / self.forecast.seconds


class _Window:
    """What the latest steps delivered, against the ``promised`` tokens a second."""

    def __init__(self, promised: float = 0.0) -> None:
        self.steps = 0
        self._promised, self._tokens, self._seconds = promised, 0.0, 0.0

    def add(self, tokens: int, seconds: float) -> None:
        """One step more."""
        self.steps += 1
        self._tokens = self._tokens * _WINDOW_MEMORY + tokens
        self._seconds = self._seconds * _WINDOW_MEMORY + seconds

    def disappoints(self) -> bool:
        """Whether it delivers clearly less than was promised."""
        return self.steps >= _MIN_STEPS and self._tokens < _DISAPPOINTING * self._promised * self._seconds
