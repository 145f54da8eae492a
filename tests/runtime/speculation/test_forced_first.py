"""Forced tokens come first, and whoever picks the other drafts sees nothing of them."""

from __future__ import annotations

from runtime.decoding.context import Context
from runtime.decoding.draft import Pick, Step, chain_limit
from runtime.decoding.sampling import SamplingParams
from runtime.drafters.registry import GRAMMAR
from runtime.speculation.forced_first import ForcedFirst
from tests.runtime.decoding.language import Language

OWN = Pick("near", chain_limit(3))


class Recording:
    """A scheduler with one pick; ``seen`` are the steps that it was shown."""

    def __init__(self) -> None:
        self.seen: list[Step | None] = []

    def pick(self, last: Step | None) -> Pick:
        self.seen.append(last)
        return OWN


class Forcing(Language):
    """Forces a token, or none, as ``is_forcing`` says."""

    is_forcing = True

    def forced(self) -> list[int]:
        return [1] if self.is_forcing else []


def step_of(pick: Pick) -> Step:
    return Step((1,), ("target",), 0, 0, 0.0, 0.0, 0.0, pick=pick)


def test_the_scheduler_sees_its_own_steps_once_each_and_in_order() -> None:
    inner, constraint, context = Recording(), Forcing(8), Context(16, SamplingParams())
    context.constraint = constraint
    first = ForcedFirst(inner, context, lambda: 4)
    shown, last = [], None
    for is_forcing in (True, False, False, True, True, False, False, True, False):
        constraint.is_forcing = is_forcing
        pick = first.pick(last)
        assert (pick.drafter == GRAMMAR) == is_forcing
        assert pick.limit == (chain_limit(4) if is_forcing else OWN.limit)
        last = step_of(pick)
        shown += [] if is_forcing else [last]
    assert inner.seen[0] is None
    assert all(seen is step for seen, step in zip(inner.seen[1:], shown, strict=False))
    assert len(inner.seen) == len(shown)


def test_nothing_is_forced_where_nothing_may_be_drafted() -> None:
    context = Context(16, SamplingParams())
    first = ForcedFirst(Recording(), context, lambda: 0)
    assert first.pick(None) == OWN
    context.constraint = Forcing(8)
    assert first.pick(None) == OWN
