"""Running estimates of how often drafted tokens are accepted, depth by depth.

A drafter's chance falls once after the first token and is flat behind it, more or less, so every depth has an estimate
of its own; what few steps have shown is drawn towards the estimate over all depths, and that one towards what was known
before (the agreement measured at export). Old steps fade slowly, so that choices do not follow the luck of a few; but
where the latest steps clearly contradict them, most of what was seen before is forgotten at once.
"""

from __future__ import annotations

from statistics import median

# A step counts this much less with every later one: the latest 65 or so make the estimate.
_MEMORY = 0.985
# The latest 9 or so are held against it; with a difference like this, 2 or 3 standard deviations, only so much is kept.
_LATEST, _SURPRISE, _KEPT = 0.8, 0.35, 0.2
# What was known before counts as so many observed tokens: few, because a drafter that is always wrong must be found out
# before it has cost much. Heuristics both.
_PRIOR_WEIGHT = 4.0
_POOLED_WEIGHT = 4.0
_GAIN_PRIOR = 10.0
_MAX_DEPTH = 64


class Acceptance:
    """Of one proposer's tokens, judged by one model. ``prior`` in [0, 1] is what is expected before the first step."""

    def __init__(self, prior: float) -> None:
        self._prior = prior
        self._accepted = [0.0] * _MAX_DEPTH
        self._seen = [0.0] * _MAX_DEPTH
        self._all_accepted = self._all_seen = 0.0
        self._latest = prior

    def observe(self, accepted: int, drafted: int) -> None:
        """A draft ``drafted`` tokens deep, of which the first ``accepted`` stood."""
        reached = min(accepted + 1, drafted, _MAX_DEPTH)
        if not reached:
            return
        self._latest += (1 - _LATEST) * ((accepted > 0) - self._latest)
        if abs(self._latest - self.chances(1)[0]) > _SURPRISE:
            self.forget(_KEPT)
        for depth in range(reached):
            self._seen[depth] = self._seen[depth] * _MEMORY + 1
            self._accepted[depth] = self._accepted[depth] * _MEMORY + (depth < accepted)
        self._all_seen = self._all_seen * _MEMORY + reached
        self._all_accepted = self._all_accepted * _MEMORY + min(accepted, reached)

    def carry_over(self, share: float) -> None:
        """Another text begins: what was learnt is what is known before, and its steps count a ``share``."""
        self._prior = self.pooled
        self.forget(share)

    def forget(self, share: float) -> None:
        """Of what was seen, all but a ``share`` counts no more."""
        self._seen = [seen * share for seen in self._seen]
        self._accepted = [accepted * share for accepted in self._accepted]
        self._all_seen, self._all_accepted = self._all_seen * share, self._all_accepted * share

    @property
    def pooled(self) -> float:
        """The chance over all depths."""
        return (self._all_accepted + _PRIOR_WEIGHT * self._prior) / (self._all_seen + _PRIOR_WEIGHT)

    def chances(self, depth: int) -> list[float]:
        """For each of the first ``depth`` tokens, the chance that it is accepted given that all before it are."""
        pooled = _POOLED_WEIGHT * self.pooled
        return [
            (accepted + pooled) / (seen + _POOLED_WEIGHT)
            for accepted, seen in zip(self._accepted[:depth], self._seen[:depth], strict=True)
        ]


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


class Ratio:
    """What was observed over what was predicted, running; one hiccup of the system does not move it.

    Each observation is the median of the latest three, so a lasting change shows with the second.
    """

    __slots__ = ("_before", "_share", "value")

    def __init__(self, share: float = 0.5) -> None:
        self.value = 1.0
        self._before = (1.0, 1.0)
        self._share = share

    def observe(self, ratio: float) -> None:
        """One observation."""
        older, old = self._before
        self._before = (old, ratio)
        self.value += self._share * (median((older, old, ratio)) - self.value)
