"""Drafting beside the target: the two really overlap, nobody reads what changes, and nothing is left behind."""

from __future__ import annotations

import os
import threading
from time import sleep

import pytest

from runtime.decoding.acceptance.sample_and_match import MatchVerifier
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DraftLimit, Pick, Step, chain_limit, make_chain
from runtime.decoding.loop import decode
from runtime.drafters.draft_model import DraftModelDrafter
from runtime.drafters.overlapped import OverlappedDrafter
from runtime.scheduler.fixed import FixedScheduler
from tests.runtime.decoding.test_loop import PROMPT, SAMPLED, Ends, reference
from tests.runtime.drafters.guesses import Raising
from tests.runtime.drafters.overlapped_stack import (
    GAMMA,
    GREEDY,
    PATIENCE,
    Calling,
    ahead_threads,
    context_of,
    decoded,
    tokens_of,
)
from tests.runtime.table_model import TableModel


def test_drafter_and_target_run_at_the_same_time() -> None:
    """Each waits until the other has begun."""
    drafting, verifying, target = threading.Event(), threading.Event(), TableModel(capacity=100)
    forward = target.forward

    def meet(mine: threading.Event, other: threading.Event) -> None:
        mine.set()
        assert other.wait(PATIENCE)

    def meeting_forward(*args):
        meet(verifying, drafting)
        return forward(*args)

    target.forward = meeting_forward  # type: ignore[method-assign]
    inner = Calling(DraftModelDrafter(TableModel(), 11), lambda context, limit: meet(drafting, verifying))
    steps = []
    for step in decoded(OverlappedDrafter(inner), 9, target):
        steps.append(step)
        drafting.clear()
        verifying.clear()
    assert tokens_of(steps) == reference(PROMPT, 9, GREEDY)


def test_the_drafter_reads_a_copy_of_the_text_with_the_draft_behind_it() -> None:
    changed, seen = threading.Event(), []

    def read(context: Context, limit: DraftLimit) -> None:
        assert changed.wait(PATIENCE)
        seen.append((context.tokens.tolist(), context.sampling, context.first, context.capacity, limit))

    ahead = OverlappedDrafter(Calling(DraftModelDrafter(TableModel(), 11), read))
    context = Context(80, SAMPLED, first=9)
    context.append([1, 2, 3])
    limit = DraftLimit(GAMMA, GAMMA, floor=0.1, inner=chain_limit(2))
    ahead.draft_ahead(context, make_chain([4, 5]), limit)
    context.truncate(1)
    context.append([7] * 20)
    context.sampling, context.first = GREEDY, 0
    changed.set()
    ahead.settle()
    assert seen == [([1, 2, 3, 4, 5], SAMPLED, 9, 80, DraftLimit(4, 4, floor=0.1, inner=chain_limit(2)))]


def test_text_that_is_still_read_is_not_changed() -> None:
    """Not even by who looks ahead twice and never asks what came of it."""
    go_on, seen = threading.Event(), []

    def read(context: Context, limit: DraftLimit) -> None:
        assert go_on.wait(PATIENCE)
        seen.append(context.tokens.tolist())

    ahead = OverlappedDrafter(Calling(DraftModelDrafter(TableModel(), 11), read))
    ahead.draft_ahead(context_of([1, 2, 3]), make_chain([4]), chain_limit(2))
    threading.Timer(0.05, go_on.set).start()
    ahead.draft_ahead(context_of([9]), Draft(), chain_limit(2))
    ahead.settle()
    assert seen == [[1, 2, 3, 4], [9]]


def test_an_interrupt_while_it_is_waited_for_forgets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(jobs: object) -> None:
        raise KeyboardInterrupt

    go_on, done = threading.Event(), []

    def slow(context: Context, limit: DraftLimit) -> None:
        assert go_on.wait(PATIENCE)
        done.append(True)

    ahead = OverlappedDrafter(Calling(DraftModelDrafter(TableModel(), 11), slow))
    ahead.draft_ahead(context_of([1]), Draft(), chain_limit(2))
    with monkeypatch.context() as patch:
        patch.setattr("runtime.drafters.overlapped.wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ahead.propose(context_of([1]), chain_limit(2))
        with pytest.raises(KeyboardInterrupt):
            ahead.settle()
    threading.Timer(0.05, go_on.set).start()
    ahead.settle()
    assert done == [True]
    assert not ahead_threads()


@pytest.mark.parametrize("when", range(4))
def test_an_error_in_the_drafters_thread_is_raised_by_the_next_step(when: int) -> None:
    steps, count = decoded(OverlappedDrafter(Raising(when)), 24), 0
    with pytest.raises(RuntimeError, match="the drafter failed"):
        for count, _ in enumerate(steps, 1):  # noqa: B007
            pass
    assert count == when + 1
    assert not ahead_threads()


def test_an_error_in_a_draft_that_nobody_wants_concerns_nobody() -> None:
    ahead = OverlappedDrafter(Raising(0))
    ahead.draft_ahead(context_of([1]), Draft(), chain_limit(2))
    ahead.settle()
    assert len(ahead.propose(context_of([1]), chain_limit(2))) == 0
    assert len(list(decoded(OverlappedDrafter(Raising(1)), 2))) == 2


def test_closing_waits_for_the_drafter_and_leaves_no_thread() -> None:
    begun, go_on, done = threading.Event(), threading.Event(), []

    def slow(context: Context, limit: DraftLimit) -> None:
        begun.set()
        assert go_on.wait(PATIENCE)
        done.append(True)

    steps = decoded(OverlappedDrafter(Calling(DraftModelDrafter(TableModel(), 11), slow)), 24)
    next(steps)
    assert begun.wait(PATIENCE)
    assert len(ahead_threads()) == 1
    threading.Timer(0.05, go_on.set).start()
    steps.close()
    assert done == [True]
    assert not ahead_threads()


def test_an_interrupt_while_the_target_runs_leaves_nothing_going_on() -> None:
    target, drafter = TableModel(capacity=100), OverlappedDrafter(DraftModelDrafter(TableModel(), 11))
    forward, calls = target.forward, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(*args)

    target.forward = interrupted  # type: ignore[method-assign]
    context = context_of(PROMPT)
    scheduler = FixedScheduler(drafter.name, chain_limit(GAMMA))

    def go() -> list[Step]:
        return list(decode(target, context, {drafter.name: drafter}, scheduler, MatchVerifier(), Ends(24)))

    with pytest.raises(KeyboardInterrupt):
        go()
    assert not ahead_threads()
    kept = len(context) - len(PROMPT)
    assert context.tokens[len(PROMPT) :].tolist() + tokens_of(go()) == reference(PROMPT, kept + 24, GREEDY)


def test_a_drafter_serves_two_ways_of_drafting_but_never_at_once() -> None:
    """The scheduler may pick it to draft ahead in one step and before the next one."""
    inside = threading.Lock()

    class Alone(DraftModelDrafter):
        def propose(self, context: Context, limit: DraftLimit) -> Draft:
            assert inside.acquire(blocking=False), "two threads at once"
            try:
                if threading.current_thread() is not threading.main_thread():
                    sleep(0.02)  # long enough to be met
                return super().propose(context, limit)
            finally:
                inside.release()

    class InTurn:
        def __init__(self) -> None:
            self.picks = 0

        def pick(self, last: Step | None) -> Pick:
            self.picks += 1
            name = ("ahead:alone", "alone", None, "ahead:alone", "ahead:alone")[self.picks % 5]
            return Pick(name, chain_limit(GAMMA if name else 0))

    alone = Alone(TableModel(seed=0), 11, "alone")
    drafters = {"alone": alone, "ahead:alone": OverlappedDrafter(alone)}
    steps = list(decode(TableModel(), context_of(PROMPT), drafters, InTurn(), MatchVerifier(), Ends(40)))
    assert tokens_of(steps) == reference(PROMPT, 40, GREEDY)
    assert {step.pick.name for step in steps} == {"ahead:alone-chain3", "alone-chain3", "plain"}
    # Each of the two that are in a row has the draft of the one before it.
    assert any(step.num_drafted for step in steps if step.pick.name.startswith("ahead"))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system lets no program choose cores")
def test_its_thread_stays_on_its_cores_and_the_callers_does_not_move() -> None:
    everywhere, seen = os.sched_getaffinity(0), []
    inner = Calling(DraftModelDrafter(TableModel(), 11), lambda context, limit: seen.append(os.sched_getaffinity(0)))
    for core in everywhere:
        seen.clear()
        list(decoded(OverlappedDrafter(inner, cores=(core,)), 9))
        assert seen
        assert all(cores == {core} for cores in seen)
        assert os.sched_getaffinity(0) == everywhere
