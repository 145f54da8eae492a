"""Running estimates of how often drafted tokens are accepted, depth by depth.

The chance of acceptance usually drops after the first token and is flat behind it, so every depth has an estimate of
its own. With few observations it is drawn towards the estimate over all depths, and that one towards what was known
before: the agreement measured at export, and what earlier texts have shown. Old steps fade slowly, so that the choice
of a method does not follow the luck of a few steps. Where the latest steps clearly contradict the estimate, only they
count.
"""

from __future__ import annotations

import math
from collections import defaultdict

# An estimate is made of so many observations, or rather: every observation fades the ones before by one in so many.
_REMEMBERED = 125.0
# What was known before counts as so many observations: few, so that a drafter that is always wrong is found out early.
_PRIOR_WEIGHT = 8.0
# The latest ones are compared with the estimate; a difference like this, 2 to 3 standard deviations, replaces it.
_LATEST, _SURPRISE = 5.0, 0.4
# How often a drafter is right that nobody has measured: a cautious guess.
UNKNOWN_CHANCE = 0.5


class RunningMean:
    """A weighted mean of about the ``remembered`` latest observations; ``prior`` counts as ``weight`` of them."""

    def __init__(self, prior: float, weight: float | None = None, remembered: float | None = None) -> None:
        self.weight = _PRIOR_WEIGHT if weight is None else weight
        self.total = prior * self.weight
        self._kept = 1 - 1 / (remembered or _REMEMBERED)

    @property
    def value(self) -> float:
        """The mean now."""
        return self.total / self.weight

    def observe(self, total: float, weight: float = 1.0) -> None:
        """Observations of so much ``weight`` came to ``total``."""
        self.total = self.total * self._kept + total
        self.weight = self.weight * self._kept + weight

    def towards(self, known: float) -> float:
        """The mean, drawn towards what was ``known`` before."""
        return (self.total + _PRIOR_WEIGHT * known) / (self.weight + _PRIOR_WEIGHT)


class TextEase:
    """How much easier the current text is to guess than usual: one shift of log odds for all drafters.

    A drafter that fails in a hard paragraph is no worse than others for that, so its failures lower what is expected of
    the others too.
    """

    def __init__(self) -> None:
        self._odds = 1.0

    def shifted(self, usual: float) -> float:
        """The ``usual`` chance, in this text."""
        return usual * self._odds / (usual * self._odds + 1 - usual)

    def observe(self, accepted: int, seen: int, usual: float) -> None:
        """``accepted`` of the ``seen`` tokens of a drafter stood, whose ``usual`` chance is known."""
        self._odds *= math.exp((accepted - seen * self.shifted(usual)) / _PRIOR_WEIGHT)

    def end(self) -> None:
        """Another text begins."""
        self._odds = 1.0


class AcceptanceStats:
    """Acceptance of one drafter's tokens by one model.

    ``prior`` in [0, 1] is expected before the first step. ``text`` is shared by all drafters that the model judges.
    """

    def __init__(self, prior: float, text: TextEase | None = None) -> None:
        self.text = text or TextEase()
        # In all texts, and of late; in this text over all depths, and by depth.
        self._long, self._latest = RunningMean(prior), RunningMean(prior, _LATEST, _LATEST)
        self._all, self._depths = RunningMean(0.0, 0.0), defaultdict[int, RunningMean](lambda: RunningMean(0.0, 0.0))
        # Changes with every observation.
        self.version = 0

    def forget(self, share: float) -> None:
        """Keeps only a ``share`` of the weight of what this text has shown."""
        for mean in (self._all, *self._depths.values()):
            mean.total, mean.weight = mean.total * share, mean.weight * share
        self.version += 1

    def observe(self, accepted: int, drafted: int) -> None:
        """A draft ``drafted`` tokens deep, of which the first ``accepted`` stood."""
        seen = min(accepted + 1, drafted)
        if not seen:
            return
        self.text.observe(accepted, seen, self._long.value)
        for mean in (self._all, self._long):
            mean.observe(accepted, seen)
        for depth in range(1, seen):
            self._depths[depth].observe(depth < accepted)
        self.observe_first(accepted > 0)

    def observe_first(self, stood: bool) -> None:
        """A first token, where nothing can be said of the ones behind it."""
        for mean in (self._latest, self._depths[0]):
            mean.observe(stood)
        self.version += 1
        if abs(self._latest.value - self.chances(1)[0]) > _SURPRISE:
            self.forget(0.0)
            for mean in (self._all, self._depths[0]):
                mean.observe(self._latest.total, self._latest.weight)

    def chances(self, depth: int) -> list[float]:
        """For each of the first ``depth`` tokens, the chance that it is accepted given that all before it are."""
        usual = self._all.towards(self.text.shifted(self._long.value))
        return [self._depths[each].towards(usual) for each in range(depth)]
