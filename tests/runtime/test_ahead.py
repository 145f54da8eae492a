"""Drafting beside the target: what is drafted when, that the two really overlap, and that nothing is left behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from itertools import takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.context import Context
from runtime.decode import Step, decode
from runtime.draft import Draft, DraftLimit, chain_limit, make_chain
from runtime.drafters import Drafter, LooksAhead
from runtime.drafters.ahead import AheadDrafter
from runtime.drafters.small import SmallDrafter
from runtime.sampling import SamplingParams
from runtime.scheduler import Pick
from runtime.scheduler.fixed import FixedScheduler
from runtime.verify.match import MatchVerifier
from tests.runtime.guesses import Raising, plain_token
from tests.runtime.table_model import TableModel
from tests.runtime.test_decode import PROMPT, SAMPLED, Ends, reference

GREEDY = SamplingParams()
GAMMA = 3
PATIENCE = 30.0


class Marked:
    """Chains by script: the n-th has plain decoding's token where its marks say so, after those before it."""

    name = "marked"

    def __init__(self, model: TableModel, scripts: Sequence[Sequence[bool]]) -> None:
        self._model, self._scripts, self.calls = model, scripts, 0

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        marks = self._scripts[self.calls % len(self._scripts)]
        self.calls += 1
        tokens = context.tokens.tolist()
        for right in marks[: limit.depth]:
            token = plain_token(self._model, tokens, context)
            tokens.append(token if right else (token + 1) % self._model.vocab_size)
        return make_chain(tokens[len(context) :], source=self.name)


class Calling:
    """A drafter that calls ``before`` with what it is given, and is ``inner`` otherwise."""

    name = "calling"

    def __init__(self, inner: Drafter, before) -> None:
        self._inner, self._before = inner, before

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        self._before(context, limit)
        return self._inner.propose(context, limit)


def _context(tokens: Sequence[int], sampling: SamplingParams = GREEDY, capacity: int = 80) -> Context:
    context = Context(capacity, sampling)
    context.append(tokens)
    return context


def _decode(drafter: Drafter, count: int, target: TableModel | None = None, **sizes) -> Iterator[Step]:
    context = _context(PROMPT, **sizes)
    scheduler = FixedScheduler(drafter.name, chain_limit(GAMMA))
    target = target or TableModel(capacity=100)
    return decode(target, context, {drafter.name: drafter}, scheduler, MatchVerifier(), Ends(count))


def _tokens(steps: Sequence[Step]) -> list[int]:
    return [token for step in steps for token in step.tokens]


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]


def _schedule(scripts: Sequence[Sequence[bool]], steps: int) -> list[tuple[int, int]]:
    """PEARL's modes: of every step, how many tokens were drafted, and how many of them accepted."""
    expected: list[tuple[int, int]] = []
    ready: list[bool] = []  # marks of the draft that is verified; none: pre-verify
    for place in range(steps):
        accepted = len(list(takewhile(bool, ready)))
        expected.append((len(ready), accepted))
        marks = list(scripts[place % len(scripts)])
        ready = marks[1:] if accepted == len(ready) and marks[0] else []
    return expected


RIGHT = [True] * (GAMMA + 1)
ONE_WRONG = [[place != wrong for place in range(GAMMA + 1)] for wrong in range(GAMMA + 1)]


@pytest.mark.parametrize("before", [[], [RIGHT], [RIGHT, RIGHT]], ids=["first", "second", "third"])
@pytest.mark.parametrize("wrong", ONE_WRONG, ids=range(GAMMA + 1))
def test_a_wrong_token_at_any_place_goes_back_to_pre_verify(before: list[list[bool]], wrong: list[bool]) -> None:
    scripts = [*before, wrong, *[RIGHT] * 20]
    drafter = AheadDrafter(Marked(TableModel(), scripts))
    steps = list(_decode(drafter, 24))
    assert _tokens(steps) == reference(PROMPT, 24, GREEDY)
    expected = _schedule(scripts, len(steps))
    assert [(step.num_drafted, step.num_accepted) for step in steps[:-1]] == expected[:-1]
    # By hand: all right so far, one verdict that differs, one step without a draft, and on.
    first = len(before)
    if wrong[0]:
        at = [(step.num_drafted, step.num_accepted) for step in steps[first : first + 3]]
        assert at == [((GAMMA if first else 0), GAMMA if first else 0), (GAMMA, wrong.index(False) - 1), (0, 0)]
    else:
        assert (steps[first + 1].num_drafted, steps[first + 2].num_drafted) == (0, GAMMA)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.booleans(), min_size=GAMMA + 1, max_size=GAMMA + 1), min_size=1, max_size=6),
    st.sampled_from([GREEDY, SAMPLED]),
)
def test_any_script_follows_the_modes_and_changes_no_token(scripts: list[list[bool]], sampling: SamplingParams) -> None:
    steps = list(_decode(AheadDrafter(Marked(TableModel(), scripts)), 20, sampling=sampling))
    assert _tokens(steps) == reference(PROMPT, 20, sampling)
    expected = _schedule(scripts, len(steps))
    assert [(step.num_drafted, step.num_accepted) for step in steps[:-1]] == expected[:-1]
    assert not _threads()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.booleans(), min_size=GAMMA + 1, max_size=GAMMA + 1), min_size=1, max_size=6),
    st.sampled_from([GREEDY, SAMPLED]),
)
def test_one_that_waits_never_runs_the_target_without_a_draft(
    scripts: list[list[bool]], sampling: SamplingParams
) -> None:
    drafter = AheadDrafter(Marked(TableModel(), scripts), waits=True)
    steps = list(_decode(drafter, 20, sampling=sampling))
    assert _tokens(steps) == reference(PROMPT, 20, sampling)
    marks, ready, expected = iter(scripts * 40), None, []
    for _ in steps:
        verified = list(ready or next(marks)[:GAMMA])
        expected.append((GAMMA, len(list(takewhile(bool, verified)))))
        ahead = next(marks)
        ready = ahead[1:] if all(verified) and ahead[0] else None
    # At the end of the context drafts are shorter.
    assert [(step.num_drafted, step.num_accepted) for step in steps[:-1]] == expected[:-1]


def test_a_perfect_drafter_stays_ahead() -> None:
    steps = list(_decode(AheadDrafter(SmallDrafter(TableModel(), 11)), 41))
    assert [len(step.tokens) for step in steps] == [1] + [GAMMA + 1] * 10
    assert steps[0].choice == "ahead-chain3"


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
    inner = Calling(SmallDrafter(TableModel(), 11), lambda context, limit: meet(drafting, verifying))
    steps = []
    for step in _decode(AheadDrafter(inner), 9, target):
        steps.append(step)
        drafting.clear()
        verifying.clear()
    assert _tokens(steps) == reference(PROMPT, 9, GREEDY)


def test_the_drafter_reads_a_copy_of_the_text_with_the_draft_behind_it() -> None:
    changed, seen = threading.Event(), []

    def read(context: Context, limit: DraftLimit) -> None:
        assert changed.wait(PATIENCE)
        seen.append((context.tokens.tolist(), context.sampling, context.first, context.capacity, limit))

    ahead = AheadDrafter(Calling(SmallDrafter(TableModel(), 11), read))
    context = Context(80, SAMPLED, first=9)
    context.append([1, 2, 3])
    limit = DraftLimit(GAMMA, GAMMA, floor=0.1, inner=chain_limit(2))
    ahead.look_ahead(context, make_chain([4, 5]), limit)
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

    ahead = AheadDrafter(Calling(SmallDrafter(TableModel(), 11), read))
    ahead.look_ahead(_context([1, 2, 3]), make_chain([4]), chain_limit(2))
    threading.Timer(0.05, go_on.set).start()
    ahead.look_ahead(_context([9]), Draft(), chain_limit(2))
    ahead.settle()
    assert seen == [[1, 2, 3, 4], [9]]


def test_an_interrupt_while_it_is_waited_for_forgets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(jobs: object) -> None:
        raise KeyboardInterrupt

    go_on, done = threading.Event(), []

    def slow(context: Context, limit: DraftLimit) -> None:
        assert go_on.wait(PATIENCE)
        done.append(True)

    ahead = AheadDrafter(Calling(SmallDrafter(TableModel(), 11), slow))
    ahead.look_ahead(_context([1]), Draft(), chain_limit(2))
    with monkeypatch.context() as patch:
        patch.setattr("runtime.drafters.ahead.wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ahead.propose(_context([1]), chain_limit(2))
        with pytest.raises(KeyboardInterrupt):
            ahead.settle()
    threading.Timer(0.05, go_on.set).start()
    ahead.settle()
    assert done == [True]
    assert not _threads()


class Fixed:
    """The same chain every time, with all that a draft can carry."""

    name = "fixed"

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        return make_chain([5, 6, 7, 8], source="fixed", chances=(0.9, 0.8, 0.7, 0.6), rows_read=2)


@pytest.mark.parametrize(
    ("committed", "depth", "expected"),
    [
        ([1, 2, 3, 4, 5], 9, [6, 7, 8]),
        ([1, 2, 3, 4, 5], 2, [6, 7]),
        ([1, 2, 3, 4, 5, 6], 9, [7, 8]),
        ([1, 2, 3, 4, 6], 9, []),  # another token than the first one drafted ahead
        ([1, 2, 3, 5], 9, []),  # the draft was not accepted
        ([1, 2, 3, 9, 5], 9, []),  # or another one in its place
        ([2, 2, 3, 4, 5], 9, []),  # another conversation
        ([1, 2, 3, 4], 9, []),
        ([1, 2, 3, 4, 5, 6, 7, 8], 9, []),
    ],
)
def test_only_what_fits_the_text_is_used(committed: list[int], depth: int, expected: list[int]) -> None:
    ahead = AheadDrafter(Fixed())
    ahead.look_ahead(_context([1, 2, 3]), make_chain([4]), chain_limit(GAMMA))
    draft = ahead.propose(_context(committed), chain_limit(depth))
    assert list(draft.tokens) == expected
    start = 4 - len(draft) if depth > 2 else 1
    if expected:
        assert draft.chances == (0.9, 0.8, 0.7, 0.6)[start : start + len(draft)]
        assert (draft.source, draft.rows_read, draft.is_chain) == ("fixed", 2, True)
    assert len(ahead.propose(_context(committed), chain_limit(depth))) == 0  # once
    ahead.settle()


def test_nothing_is_drafted_that_the_context_has_no_room_for() -> None:
    lengths: list[int] = []
    inner = Calling(SmallDrafter(TableModel(), 11), lambda context, limit: lengths.append(len(context) + limit.depth))
    steps = list(_decode(AheadDrafter(inner), 99, capacity=17))
    assert _tokens(steps) == reference(PROMPT, 12, GREEDY)
    assert max(lengths) == 16  # the last token of a context is never drafted


@pytest.mark.parametrize("when", range(4))
def test_an_error_in_the_drafters_thread_is_raised_by_the_next_step(when: int) -> None:
    steps, count = _decode(AheadDrafter(Raising(when)), 24), 0
    with pytest.raises(RuntimeError, match="the drafter failed"):
        for count, _ in enumerate(steps, 1):  # noqa: B007
            pass
    assert count == when + 1
    assert not _threads()


def test_an_error_in_a_draft_that_nobody_wants_concerns_nobody() -> None:
    ahead = AheadDrafter(Raising(0))
    ahead.look_ahead(_context([1]), Draft(), chain_limit(2))
    ahead.settle()
    assert len(ahead.propose(_context([1]), chain_limit(2))) == 0
    assert len(list(_decode(AheadDrafter(Raising(1)), 2))) == 2


def test_closing_waits_for_the_drafter_and_leaves_no_thread() -> None:
    begun, go_on, done = threading.Event(), threading.Event(), []

    def slow(context: Context, limit: DraftLimit) -> None:
        begun.set()
        assert go_on.wait(PATIENCE)
        done.append(True)

    steps = _decode(AheadDrafter(Calling(SmallDrafter(TableModel(), 11), slow)), 24)
    next(steps)
    assert begun.wait(PATIENCE)
    assert len(_threads()) == 1
    threading.Timer(0.05, go_on.set).start()
    steps.close()
    assert done == [True]
    assert not _threads()


def test_an_interrupt_while_the_target_runs_leaves_nothing_going_on() -> None:
    target, drafter = TableModel(capacity=100), AheadDrafter(SmallDrafter(TableModel(), 11))
    forward, calls = target.forward, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(*args)

    target.forward = interrupted  # type: ignore[method-assign]
    context = _context(PROMPT)
    scheduler = FixedScheduler(drafter.name, chain_limit(GAMMA))

    def go() -> list[Step]:
        return list(decode(target, context, {drafter.name: drafter}, scheduler, MatchVerifier(), Ends(24)))

    with pytest.raises(KeyboardInterrupt):
        go()
    assert not _threads()
    kept = len(context) - len(PROMPT)
    assert context.tokens[len(PROMPT) :].tolist() + _tokens(go()) == reference(PROMPT, kept + 24, GREEDY)


def test_a_drafter_serves_two_ways_of_drafting_but_never_at_once() -> None:
    """The scheduler may pick it to draft ahead in one step and before the next one."""
    inside = threading.Lock()

    class Alone(SmallDrafter):
        def propose(self, context: Context, limit: DraftLimit) -> Draft:
            assert inside.acquire(blocking=False), "two threads at once"
            try:
                for _ in range(20):  # long enough to be met
                    plain_token(model, context.tokens.tolist(), context)
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

    model = TableModel()
    alone = Alone(TableModel(seed=0), 11, "alone")
    drafters = {"alone": alone, "ahead:alone": AheadDrafter(alone)}
    steps = list(decode(TableModel(), _context(PROMPT), drafters, InTurn(), MatchVerifier(), Ends(40)))
    assert _tokens(steps) == reference(PROMPT, 40, GREEDY)
    assert {step.choice for step in steps} == {"ahead:alone-chain3", "alone-chain3", "plain"}
    # Each of the two that are in a row has the draft of the one before it.
    assert any(step.num_drafted for step in steps if step.choice.startswith("ahead"))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system lets no program choose cores")
def test_its_thread_stays_on_its_cores_and_the_callers_does_not_move() -> None:
    everywhere, seen = os.sched_getaffinity(0), []
    inner = Calling(SmallDrafter(TableModel(), 11), lambda context, limit: seen.append(os.sched_getaffinity(0)))
    for core in everywhere:
        seen.clear()
        list(_decode(AheadDrafter(inner, cores=(core,)), 9))
        assert seen
        assert all(cores == {core} for cores in seen)
        assert os.sched_getaffinity(0) == everywhere


def test_it_is_told_from_drafters_that_wait() -> None:
    assert isinstance(AheadDrafter(Fixed()), LooksAhead)
    assert not isinstance(Fixed(), LooksAhead)
