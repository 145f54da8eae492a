"""Running estimates of how often drafted tokens are accepted, depth by depth.

The chance of acceptance usually drops after the first token and is flat behind it, so every depth has an estimate of
its own. With few observations it is drawn towards the estimate over all depths, and that one towards what was known
before: the agreement measured at export, and what longer stretches of earlier text have shown. Old steps fade slowly,
so that the choice of a method does not follow the luck of a few steps. Where the latest steps clearly contradict the
estimate, only they count.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from memory.expected import chain_tokens
from runtime.decoding.draft import Step

# Weight of a step relative to the one after it: the latest 125 or so make the estimate.
_MEMORY = 0.992
# The latest 5 or so are compared with the estimate; a difference like this, 2 to 3 standard deviations, replaces it.
_LATEST, _SURPRISE = 0.8, 0.4
# What was known before counts as so many observed tokens: few, so that a drafter that is always wrong is found out
# early.
_PRIOR_WEIGHT = 8.0
# Weight of the latest observation in a ratio of seconds.
_LATEST_SECONDS = 0.25
# What is expected of a running mean counts as so many observations.
_FEW = 2.0
# The estimate over all depths counts as so many tokens in that of one depth.
_POOLED_WEIGHT = 4.0
# A token's surprise moves the log odds of the text by this much; no chance is nearer to 0 or 1 than ``_LEAST``.
_TEXT_SHARE, _MOST_SHIFT, _LEAST = 0.15, 2.0, 0.02


class TextEase:
    """How much easier the current text is to guess than usual: one shift of log odds for all drafters.

    A drafter that fails in a hard paragraph is no worse than others for that, so its failures lower what is expected of
    the others too.
    """

    def __init__(self) -> None:
        self._shift = 0.0

    def shifted(self, chance: float) -> float:
        """The usual ``chance``, in this text."""
        usual = min(max(chance, _LEAST), 1 - _LEAST)
        return 1 / (1 + (1 - usual) / usual * math.exp(-self._shift))

    def observe(self, accepted: int, seen: int, usual: float) -> None:
        """``accepted`` of the ``seen`` tokens of a drafter stood, whose ``usual`` chance is known."""
        self._shift += _TEXT_SHARE * (accepted - seen * self.shifted(usual))
        self._shift = min(max(self._shift, -_MOST_SHIFT), _MOST_SHIFT)

    def end(self) -> None:
        """Another text begins."""
        self._shift = 0.0


class AcceptanceStats:
    """Acceptance of one drafter's tokens by one model.

    ``prior`` in [0, 1] is expected before the first step. ``text`` is shared by all drafters that the model judges.
    """

    def __init__(self, prior: float, text: TextEase | None = None) -> None:
        self.text = text or TextEase()
        self._depths = defaultdict[int, _Share](lambda: _Share(_MEMORY))
        self._all = _Share(_MEMORY)
        # Of everything so far: it survives when something has changed, since a bad paragraph ends.
        self._long = _Share(1.0, prior * _PRIOR_WEIGHT, _PRIOR_WEIGHT)
        enough = 1 / (1 - _LATEST)
        self._latest = _Share(_LATEST, prior * enough, enough)
        self._latest_first = _Share(_LATEST, prior * enough, enough)
        # The last answer of ``chances``, which is asked many times between two observations.
        self._told: list[float] = []
        # Changes with every observation.
        self.version = 0

    def observe(self, accepted: int, drafted: int) -> None:
        """A draft ``drafted`` tokens deep, of which the first ``accepted`` stood."""
        reached = min(accepted + 1, drafted)
        if not reached:
            return
        stood = min(accepted, reached)
        self.text.observe(stood, reached, self._long.value)
        for share in (self._all, self._long, self._latest):
            share.add(stood, reached)
        for depth in range(1, reached):
            self._depths[depth].add(depth < accepted, 1)
        self._latest_first.add(accepted > 0, 1)
        self._depths[0].add(accepted > 0, 1)
        self._told = []
        self.version += 1
        if abs(self._latest_first.value - self.chances(1)[0]) > _SURPRISE:
            self._begin_anew()

    def review(self, guesses: Sequence[bool]) -> None:
        """What chains would have brought in a stretch of the text, by whether each guess of the drafter was right.

        A chain stands as far as guesses are right. The token after it is the model's own, and the next chain begins.
        """
        stood = 0
        for right in guesses:
            if right:
                stood += 1
            else:
                self.observe(stood, stood + 1)
                stood = 0
        self.observe(stood, stood)

    def forget(self, share: float) -> None:
        """Keeps only a ``share`` of the weight of the latest steps."""
        for each in (self._all, *self._depths.values()):
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
            self._told = [self._depths[each].towards(pooled, _POOLED_WEIGHT) for each in range(depth)]
        return self._told[:depth]

    def _begin_anew(self) -> None:
        """Something has changed: only the latest few steps count."""
        self.forget(0.0)
        self._all.add(self._latest.stood, self._latest.seen)
        self._depths[0].add(self._latest_first.stood, self._latest_first.seen)


class _Share:
    """How many of the tokens seen ``stood``; each addition multiplies the weight of the old ones by ``memory``."""

    __slots__ = ("_memory", "seen", "stood")

    def __init__(self, memory: float, stood: float = 0.0, seen: float = 0.0) -> None:
        self._memory, self.stood, self.seen = memory, stood, seen

    @property
    def value(self) -> float:
        """The share; some must have been seen."""
        return self.stood / self.seen

    def add(self, stood: float, seen: float) -> None:
        """One step more."""
        self.stood = self.stood * self._memory + stood
        self.seen = self.seen * self._memory + seen

    def keep(self, share: float) -> None:
        """Keeps a ``share`` of the weight."""
        self.stood, self.seen = self.stood * share, self.seen * share

    def towards(self, known: float, weight: float) -> float:
        """The share, drawn towards ``known`` as if that had been seen in ``weight`` tokens."""
        return (self.stood + weight * known) / (self.seen + weight)


class RunningMean:
    """A running mean. ``prior`` is expected before the first observation and counts as some of them."""

    def __init__(self, prior: float) -> None:
        self._sum, self._seen, self._prior = 0.0, 0.0, prior

    @property
    def value(self) -> float:
        """The mean now."""
        return (self._sum + _FEW * self._prior) / (self._seen + _FEW)

    def observe(self, value: float) -> None:
        """One observation."""
        self._sum = self._sum * _MEMORY + value
        self._seen = self._seen * _MEMORY + 1


class TreeGain:
    """How many times more nodes of trees are accepted than if siblings were independent; near 1 with few steps.

    Trees are compared with their own main paths, so that an easy text, which lifts both, is not taken for a gain.
    """

    def __init__(self) -> None:
        self._accepted = self._expected = _PRIOR_WEIGHT

    @property
    def value(self) -> float:
        """Accepted over expected nodes."""
        return self._accepted / self._expected

    def observe(self, step: Step, expected: float, chances: Sequence[float]) -> None:
        """A tree of which ``expected`` nodes stand where the tokens of its main path have such ``chances``."""
        usual = chain_tokens(chances) - 1
        self._accepted = self._accepted * _MEMORY + step.num_accepted
        self._expected = self._expected * _MEMORY + step.main_accepted * expected / usual


class RunningRatio:
    """The running ratio of what was observed to what was predicted, robust against single hiccups.

    Every observation is the median of the latest three, so a lasting change shows with the second. It is clipped to
    within a factor ``most`` of the current value. ``told`` is the value when it was last used.
    """

    __slots__ = ("_before", "_most", "told", "value")

    def __init__(self, most: float) -> None:
        self.value = self.told = 1.0
        self._before = (1.0, 1.0)
        self._most = most

    def observe(self, ratio: float) -> None:
        """One observation."""
        older, old = self._before
        self._before = (old, ratio)
        clipped = min(max(median((older, old, ratio)), self.value / self._most), self.value * self._most)
        self.value += _LATEST_SECONDS * (clipped - self.value)
