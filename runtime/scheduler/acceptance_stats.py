"""Running estimates of how often drafted tokens are accepted, depth by depth.

A drafter's chance falls once after the first token and is flat behind it, more or less, so every depth has an estimate
of its own; what few steps have shown is drawn towards the estimate over all depths, and that one towards what was known
before: the agreement measured at export, and what longer stretches of earlier texts have shown. Old steps fade slowly,
so that choices do not follow the luck of a few; but where the latest ones clearly contradict them, those alone count.
"""

from __future__ import annotations

import math
from statistics import median

# A step counts this much less with every later one: the latest 125 or so make the estimate.
_MEMORY = 0.992
# The latest 5 or so are held against it; with a difference like this, 2 or 3 standard deviations, they alone count.
_LATEST, _SURPRISE = 0.8, 0.4
# What longer stretches have shown, the latest 500 steps or so, is never forgotten at once: a bad paragraph ends.
_LONG_MEMORY = 0.998
# What was known before counts as so many observed tokens: few, because a drafter that is always wrong must be found out
# before it has cost much. Heuristics both.
_PRIOR_WEIGHT = 8.0
_POOLED_WEIGHT = 4.0
_GAIN_PRIOR = 10.0
_MAX_DEPTH = 32
# A token's surprise moves the text's log odds by so much; no chance is nearer to 0 or 1 than this.
_TEXT_SHARE, _MOST_SHIFT, _LEAST = 0.15, 2.0, 0.02


class Text:
    """How much easier the text at hand is to guess than others were: log odds, the same for all who guess.

    A drafter that fails in a hard paragraph is no worse than others for that, so what it shows is expected of them too.
    """

    def __init__(self) -> None:
        self._shift = 0.0

    def shifted(self, chance: float) -> float:
        """What is usual, here."""
        usual = min(max(chance, _LEAST), 1 - _LEAST)
        return 1 / (1 + (1 - usual) / usual * math.exp(-self._shift))

    def observe(self, accepted: int, seen: int, usual: float) -> None:
        """So many tokens stood of somebody's whose usual chance is known."""
        self._shift += _TEXT_SHARE * (accepted - seen * self.shifted(usual))
        self._shift = min(max(self._shift, -_MOST_SHIFT), _MOST_SHIFT)

    def end(self) -> None:
        """Another text begins."""
        self._shift = 0.0


class Acceptance:
    """Of one proposer's tokens, judged by one model. ``prior`` in [0, 1] is what is expected before the first step;
    ``text`` is shared by all whose tokens that model judges."""

    def __init__(self, prior: float, text: Text | None = None) -> None:
        self.text = text or Text()
        self._depths = [_Share(_MEMORY) for _ in range(_MAX_DEPTH)]
        self._all, self._long = _Share(_MEMORY), _Share(_LONG_MEMORY, prior * _PRIOR_WEIGHT, _PRIOR_WEIGHT)
        enough = 1 / (1 - _LATEST)
        self._latest = _Share(_LATEST, prior * enough, enough)
        self._latest_first = _Share(_LATEST, prior * enough, enough)
        # What ``chances`` said last: asked many times between two observations.
        self._told: list[float] = []
        # Changes with what was seen.
        self.version = 0

    def observe(self, accepted: int, drafted: int) -> None:
        """A draft ``drafted`` tokens deep, of which the first ``accepted`` stood."""
        reached = min(accepted + 1, drafted, _MAX_DEPTH)
        if not reached:
            return
        stood = min(accepted, reached)
        self.text.observe(stood, reached, self._long.value)
        for share in (self._all, self._long, self._latest):
            share.add(stood, reached)
        for depth in range(1, reached):
            self._depths[depth].add(depth < accepted, 1)
        self.observe_first(accepted > 0)

    def observe_first(self, stood: bool) -> None:
        """A first token, where nothing can be said of the ones behind it."""
        self._latest_first.add(stood, 1)
        self._depths[0].add(stood, 1)
        self._told = []
        self.version += 1
        if abs(self._latest_first.value - self.chances(1)[0]) > _SURPRISE:
            self._begin_anew()

    def forget(self, share: float) -> None:
        """Of what the latest steps showed, all but a ``share`` counts no more."""
        for each in (self._all, *self._depths):
            each.keep(share)
        self._told = []
        self.version += 1

    @property
    def pooled(self) -> float:
        """The chance over all depths."""
        return self._all.towards(self.text.shifted(self._long.value), _PRIOR_WEIGHT)

    def chances(self, depth: int) -> list[float]:
        """For each of the first ``depth`` tokens, the chance that it is accepted given that all before it are."""
        if len(self._told) < depth:
            pooled = self.pooled
            self._told = [share.towards(pooled, _POOLED_WEIGHT) for share in self._depths[:depth]]
        return self._told[:depth]

    def _begin_anew(self) -> None:
        """Something has changed: the latest few steps are all that is known of now."""
        self.forget(0.0)
        self._all.add(self._latest.stood, self._latest.seen)
        self._depths[0].add(self._latest_first.stood, self._latest_first.seen)


class _Share:
    """How many of the tokens seen ``stood``; old ones fade, by ``memory`` with every step that is added."""

    __slots__ = ("_memory", "seen", "stood")

    def __init__(self, memory: float, stood: float = 0.0, seen: float = 0.0) -> None:
        self._memory, self.stood, self.seen = memory, stood, seen

    @property
    def value(self) -> float:
        """Their share, of some."""
        return self.stood / self.seen

    def add(self, stood: float, seen: float) -> None:
        """One step more."""
        self.stood = self.stood * self._memory + stood
        self.seen = self.seen * self._memory + seen

    def keep(self, share: float) -> None:
        """All but a ``share`` of what was seen counts no more."""
        self.stood, self.seen = self.stood * share, self.seen * share

    def towards(self, known: float, weight: float) -> float:
        """The share, drawn towards what is known as if that had been seen in so many tokens."""
        return (self.stood + weight * known) / (self.seen + weight)


class Gain:
    """How much more of trees is accepted than if siblings were independent, over steps; near 1 while there are few."""

    def __init__(self) -> None:
        self._accepted = self._expected = _GAIN_PRIOR

    @property
    def value(self) -> float:
        """Accepted over expected."""
        return self._accepted / self._expected

    def observe(self, accepted: int, expected: float) -> None:
        """A tree of which ``accepted`` nodes stood where so many were expected."""
        self._accepted = self._accepted * _MEMORY + accepted
        self._expected = self._expected * _MEMORY + expected


class Mean:
    """A running mean. ``prior``, what is expected before the first observation, counts as ``weight`` of them."""

    def __init__(self, prior: float, weight: float) -> None:
        self._sum, self._seen = 0.0, 0.0
        self._prior, self._weight = prior, weight

    @property
    def value(self) -> float:
        """The mean now."""
        return (self._sum + self._weight * self._prior) / (self._seen + self._weight)

    def observe(self, value: float) -> None:
        """One observation."""
        self._sum = self._sum * _MEMORY + value
        self._seen = self._seen * _MEMORY + 1


class Ratio:
    """What was observed over what was predicted, running; one hiccup of the system does not move it.

    Each observation is the median of the latest three, so a lasting change shows with the second; a ``share`` of the
    value is the latest, which counts as no further from it than by the factor ``most``. ``told`` is the value when it
    was used last.
    """

    __slots__ = ("_before", "_most", "_share", "told", "value")

    def __init__(self, share: float, most: float) -> None:
        self.value = self.told = 1.0
        self._before = (1.0, 1.0)
        self._share, self._most = share, most

    def observe(self, ratio: float) -> None:
        """One observation."""
        older, old = self._before
        self._before = (old, ratio)
        usual = median((older, old, ratio))
        # More often held up than not: what lasts is believed in the end, and no moment moves it far.
        self.value += self._share * (min(max(usual, self.value / self._most), self.value * self._most) - self.value)
