"""Picks the method and draft expected to be fastest, and bounds what may be lost by being wrong about that.

The objective is delivered tokens a second. Forecasts (``forecast.py``) come from calibrated costs, corrected by
measured steps, and from running acceptance. Plain decoding is one of the methods, so speculation that does not pay is
not used, and a loss budget (``loss_budget.py``) bounds the loss against it whatever was forecast: what is left of it
limits the size of the next draft. Methods that are not used are tried again now and then, with the draft that loses
least, as far as a second budget allows. A trial whose draft was accepted as a whole may be repeated at once, so a
method that has become good is back within a few steps.

Choosing takes time as well. That time is measured, and where models are small a choice stands for several steps, of
which not every one is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import NamedTuple, Protocol

from runtime.decoding.draft import NOTHING, Pick, Step, chain_limit
from runtime.scheduler.forecast import NEARLY, Forecast, Room, fastest
from runtime.scheduler.latency import FEW_ROWS, LatencyEstimates
from runtime.scheduler.learned_state import LearnedState
from runtime.scheduler.methods import DecodingMethod, Plain

# Choosing may take this share of the time. A choice that stands for many steps is looked at this often meanwhile.
_CHOOSING, _LOOKS = 0.004, 16
# A method that was not used for so many tokens may be tried again.
_STALE_TOKENS = 16
# A method that could not reach this share of the best rate even with every token accepted is not tried: forecasts of
# seconds are not that wrong.
_HOPELESS = 0.6
# A drafter that has not followed the text must read it first; that must pay within so many tokens.
_HORIZON_TOKENS = 64.0
# A drafter that is sure may draft so many tokens more than pay on average.
_LONGER = 3
# But not where further rows cost so much more than those before, as beyond a block of rows that kernels run at once.
_DEARER = 1.5


class Situation(Protocol):
    """The circumstances of a choice.

    ``room`` is the largest draft that fits now, ``length`` the number of tokens of the text so far, and ``behind`` the
    number of rows that a level must read before it can draft; None: it is not open.
    """

    def room(self) -> Room: ...

    def length(self) -> int: ...

    def behind(self, level: str) -> int | None: ...


@dataclass(frozen=True)
class _Candidate:
    """A method with all its ``forecasts`` and the ``best`` of those whose loss is affordable (None: there is none).

    ``begin_seconds`` pass until its models have read the text; ``per_token`` are seconds a token, these included.
    """

    method: DecodingMethod
    forecasts: Sequence[Forecast]
    best: Forecast | None
    begin_seconds: float
    per_token: float


class _Decision(NamedTuple):
    """What is done until the next choice; ``lost`` seconds are lost if no drafted token is accepted.

    A trial is compared with ``per_token`` seconds a token of the best method, and is charged for reading the text.
    """

    forecast: Forecast
    pick: Pick
    lost: float
    is_trial: bool = False
    per_token: float = 0.0
    begin_seconds: float = 0.0


class CostScheduler:
    """The policy for one answer. ``clock`` gives seconds, to know what choosing itself takes."""

    def __init__(self, learned: LearnedState, situation: Situation, clock: Callable[[], float] = perf_counter) -> None:
        self._learned, self._situation, self._clock = learned, situation, clock
        learned.begin_answer()
        self._plain_method = Plain()
        self._has_plain = self._plain_method.name in learned.methods
        self._main: _Candidate | None = None
        self._decision = self._usual = self._plain_decision()
        # Steps until the next choice; of them those that may pass without a look, at once and now.
        self._left = self._between = self._unseen = self._skipped = self._unlearnt = 0
        # Tokens of this answer before the last step.
        self._said = 0

    def pick(self, last: Step | None) -> Pick:
        """See ``Scheduler``."""
        self._left -= 1
        if self._unseen > 0:
            self._unseen -= 1
            return self._decision.pick
        if last is not None:
            self._observe(last)
        if last is None or self._left < 0:
            self._choose()
        elif self._decision.lost > self._affordable() and not self._learned.loss_budget.is_full:
            self._decision = self._plain_decision()
        if self._decision.forecast.drafter is None:
            self._unseen = self._skipped = min(self._between, self._left)
        return self._decision.pick

    def _observe(self, step: Step) -> None:
        """Settles both budgets for a step, and learns from it."""
        learned, decision, skipped = self._learned, self._decision, self._skipped
        forecast, tokens, latency = decision.forecast, len(step.tokens), learned.latency
        plain, expected = latency.plain(), latency.expected(forecast, step.num_drafted)
        won = tokens * plain - expected if forecast.drafter is not None else 0.0
        learned.loss_budget.settle(won / plain, expected / plain + skipped)
        won = tokens * decision.per_token - expected - decision.begin_seconds if decision.is_trial else 0.0
        learned.trial_budget.settle(won / plain, expected / plain + skipped)
        again = decision.is_trial and 0 < step.num_drafted == step.num_accepted
        learned.count(forecast.method, tokens + skipped, step.seconds + skipped * plain, again)
        self._skipped = 0
        self._unlearnt -= 1
        if self._unlearnt < 0 or forecast.drafter is None or decision.is_trial:
            self._unlearnt = self._between
            latency.update(forecast, step)
            learned.methods[forecast.method].observe(self._with_own_text(step))
        self._said += tokens + skipped
        if decision.is_trial:
            self._decision = self._usual

    def _with_own_text(self, step: Step) -> Step:
        """``step`` without what was reviewed of the prompt, which others wrote and which is guessed less often."""
        return replace(step, reviewed=step.reviewed[max(len(step.reviewed) - self._said, 0) :])

    def _choose(self) -> None:
        """Decides for the best method, or once in a while for a trial of another."""
        start, learned = self._clock(), self._learned
        learned.latency.at(self._situation.length())
        candidates = list(self._candidates())
        self._main = main = self._best(candidates)
        self._usual = self._sized(main)
        self._decision = self._trial(candidates, main) or self._usual
        spent = self._clock() - start
        self._left = int(spent / (_CHOOSING * self._usual.forecast.seconds * learned.latency.slowdown))
        self._between = self._unlearnt = self._left // _LOOKS

    def _candidates(self) -> Iterator[_Candidate]:
        """Every method whose models are open and that has room for a draft."""
        learned, room = self._learned, self._situation.room()
        most = learned.latency.plain() + self._affordable()
        is_full = learned.loss_budget.is_full
        behind = _Behind(self._situation, learned.latency)
        for name, forecasts in learned.forecasts(room).items():
            method = learned.methods[name]
            begin = behind.seconds(method)
            if begin is not None and forecasts:
                # Where even the smallest draft is a large risk, it is taken as soon as the budget is full.
                least = min(each.seconds for each in forecasts) if is_full else most
                best = fastest([each for each in forecasts if each.seconds <= max(most, least)])
                per_token = best.seconds / best.tokens + begin / _HORIZON_TOKENS if best is not None else float("inf")
                yield _Candidate(method, forecasts, best, begin, per_token)

    def _best(self, candidates: Sequence[_Candidate]) -> _Candidate:
        """The fastest; the method in use unless another is clearly faster; plain decoding if there is none."""
        best = min(candidates, key=lambda candidate: candidate.per_token, default=None)
        if best is None or best.best is None:
            self._learned.add(self._plain_method)
            plain = self._plain_decision().forecast
            return _Candidate(self._plain_method, [plain], plain, 0.0, plain.seconds)
        if self._main is not None:
            used = next((candidate for candidate in candidates if candidate.method is self._main.method), best)
            best = used if NEARLY * used.per_token < best.per_token else best
        return best

    def _sized(self, candidate: _Candidate) -> _Decision:
        """The best draft, longer where the drafter is sure and shorter where it is not.

        One more token pays if its chance of acceptance exceeds its cost at the rate that is to be had (renewal reward:
        the time spent on it could bring that many tokens otherwise).
        """
        forecast, latency, plain = candidate.best, self._learned.latency, self._learned.latency.plain()
        assert forecast is not None
        if not forecast.node_seconds:
            return _Decision(forecast, forecast.pick, forecast.seconds - plain)
        most = plain + self._affordable()
        longest, per_node = forecast.limit, forecast.node_seconds
        for longer in range(longest.nodes + 1, min(longest.nodes + _LONGER, self._situation.room().nodes) + 1):
            limit = chain_limit(longer)
            seconds = candidate.method.forecast(limit, latency).seconds
            is_dear = seconds - forecast.seconds > (longer - forecast.limit.nodes) * _DEARER * per_node
            if is_dear or seconds > most:
                break
            longest = limit
        pick = Pick(forecast.drafter, replace(longest, floor=per_node / candidate.per_token))
        return _Decision(forecast, pick, candidate.method.forecast(longest, latency).seconds - plain)

    def _trial(self, candidates: Sequence[_Candidate], best: _Candidate) -> _Decision | None:
        """The method that was not tried for longest, with the draft that loses least, if the budgets allow it."""
        learned, plain = self._learned, self._learned.latency.plain()
        for candidate in sorted(candidates, key=lambda candidate: learned.tallies[candidate.method.name].latest):
            method = candidate.method
            if method is best.method or learned.tokens - learned.tallies[method.name].latest < _STALE_TOKENS:
                continue
            if any(other is not candidate and _shows_more(other, candidate) for other in (best, *candidates)):
                continue
            highest = max((1 + each.limit.depth) / each.seconds for each in candidate.forecasts)
            forecast = min(candidate.forecasts, key=lambda each: each.seconds - each.tokens * best.per_token)
            loss = forecast.seconds - forecast.tokens * best.per_token + candidate.begin_seconds
            lost = forecast.seconds - plain
            is_paid = loss <= learned.trial_budget.affordable * plain and lost <= self._affordable()
            if is_paid and highest * best.per_token > _HOPELESS:
                return _Decision(forecast, forecast.pick, lost, True, best.per_token, candidate.begin_seconds)
        return None

    def _affordable(self) -> float:
        """Seconds that one step may lose against plain decoding; without limit where that is no choice."""
        learned = self._learned
        return learned.loss_budget.affordable * learned.latency.plain() if self._has_plain else float("inf")

    def _plain_decision(self) -> _Decision:
        forecast = self._plain_method.forecast(NOTHING, self._learned.latency)
        return _Decision(forecast, forecast.pick, 0.0)


def _shows_more(one: _Candidate, other: _Candidate) -> bool:
    """Whether ``one`` shows all that ``other`` could show, and is no slower. Trees show the first depth alone."""
    levels, seen = other.method.levels, set(one.method.acceptances)
    is_shown = bool(levels) and set(other.method.acceptances) <= seen and one.method.shape == "chain"
    return is_shown and one.per_token <= other.per_token


class _Behind:
    """Seconds until models have read the text, looked up once a level."""

    def __init__(self, situation: Situation, latency: LatencyEstimates) -> None:
        self._situation, self._latency = situation, latency
        self._known: dict[str, float | None] = {}

    def seconds(self, method: DecodingMethod) -> float | None:
        """Of all models of a method; None if one of them is not open."""
        total = 0.0
        for level in method.levels:
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
        return self._latency.forward(level, behind) if behind > FEW_ROWS else 0.0
