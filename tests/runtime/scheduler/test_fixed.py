"""Schedulers, and drafters asked in turn."""

from __future__ import annotations

from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DraftLimit, Pick, Step, make_chain
from runtime.decoding.sampling import SamplingParams
from runtime.drafters.fallback import FallbackDrafter
from runtime.scheduler.fixed import FixedScheduler

LIMIT = DraftLimit(4, 4)


class Says:
    """Always the same draft; counts how often it was asked."""

    def __init__(self, draft: Draft) -> None:
        self.name, self.draft, self.asked = "says", draft, 0

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        self.asked += 1
        return self.draft


def test_a_fixed_scheduler_always_picks_the_same() -> None:
    step = Step((1,), ("target",), 0, 0, 0.0, 0.0, 0.0)
    scheduler = FixedScheduler("small", LIMIT)
    assert scheduler.pick(None) == scheduler.pick(step) == Pick("small", LIMIT)


def test_without_a_drafter_it_is_plain_decoding() -> None:
    assert FixedScheduler().pick(None) == Pick(None, DraftLimit(0, 0))


def test_the_first_drafter_that_expects_enough_is_taken() -> None:
    context = Context(4, SamplingParams())
    last = Says(make_chain([9], source="last"))
    for draft, taken in (
        (make_chain([1, 2], expected=1.5, source="first"), "first"),
        (make_chain([1, 2], source="first"), "first"),
        (make_chain([1, 2], expected=0.5, source="first"), "last"),
        (Draft(source="first"), "last"),
    ):
        first = Says(draft)
        assert FallbackDrafter([first, last]).propose(context, LIMIT).source == taken
        assert first.asked == 1
    assert last.asked == 2
