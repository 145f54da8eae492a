"""Drafting beside the target: what is drafted when, and what of it is used."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DraftLimit, chain_limit, make_chain
from runtime.decoding.protocols import DraftsAhead
from runtime.decoding.sampling import SamplingParams
from runtime.drafters.draft_model import DraftModelDrafter
from runtime.drafters.overlapped import OverlappedDrafter
from tests.runtime.decoding.test_loop import PROMPT, SAMPLED, reference
from tests.runtime.drafters.guesses import plain_token
from tests.runtime.drafters.overlapped_stack import (
    GAMMA,
    GREEDY,
    Calling,
    ahead_threads,
    context_of,
    decoded,
    tokens_of,
)
from tests.runtime.table_model import TableModel


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
    drafter = OverlappedDrafter(Marked(TableModel(), scripts))
    steps = list(decoded(drafter, 24))
    assert tokens_of(steps) == reference(PROMPT, 24, GREEDY)
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
    steps = list(decoded(OverlappedDrafter(Marked(TableModel(), scripts)), 20, sampling=sampling))
    assert tokens_of(steps) == reference(PROMPT, 20, sampling)
    expected = _schedule(scripts, len(steps))
    assert [(step.num_drafted, step.num_accepted) for step in steps[:-1]] == expected[:-1]
    assert not ahead_threads()


def test_a_perfect_drafter_stays_ahead() -> None:
    steps = list(decoded(OverlappedDrafter(DraftModelDrafter(TableModel(), 11)), 41))
    assert [len(step.tokens) for step in steps] == [1] + [GAMMA + 1] * 10
    assert steps[0].pick.name == "ahead-chain3"


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
    ahead = OverlappedDrafter(Fixed())
    ahead.draft_ahead(context_of([1, 2, 3]), make_chain([4]), chain_limit(GAMMA))
    draft = ahead.propose(context_of(committed), chain_limit(depth))
    assert list(draft.tokens) == expected
    start = 4 - len(draft) if depth > 2 else 1
    if expected:
        assert draft.chances == (0.9, 0.8, 0.7, 0.6)[start : start + len(draft)]
        assert (draft.source, draft.rows_read, draft.is_chain) == ("fixed", 2, True)
    assert len(ahead.propose(context_of(committed), chain_limit(depth))) == 0  # once
    ahead.settle()


def test_nothing_is_drafted_that_the_context_has_no_room_for() -> None:
    lengths: list[int] = []
    inner = Calling(
        DraftModelDrafter(TableModel(), 11), lambda context, limit: lengths.append(len(context) + limit.depth)
    )
    steps = list(decoded(OverlappedDrafter(inner), 99, capacity=17))
    assert tokens_of(steps) == reference(PROMPT, 12, GREEDY)
    assert max(lengths) == 16  # the last token of a context is never drafted


def test_it_is_told_from_drafters_that_wait() -> None:
    assert isinstance(OverlappedDrafter(Fixed()), DraftsAhead)
    assert not isinstance(Fixed(), DraftsAhead)


def test_what_is_drafted_ahead_leaves_the_distributions_of_the_draft_alone() -> None:
    """The wrapped drafter draws the next draft while the target judges this one, and writes where it wrote before."""
    model, limit = TableModel(seed=4), chain_limit(GAMMA)
    drafter = OverlappedDrafter(DraftModelDrafter(model, model.vocab_size, drawn=True))
    for seed in range(20):
        context = context_of(PROMPT, SamplingParams(1.5, seed=seed))
        drafter.draft_ahead(context, drafter.propose(context, limit), limit)
        drafter._wait()
        assert drafter._pending is not None
        context.append(drafter._pending.result().tokens[:1])
        draft = drafter.propose(context, limit)
        assert draft.probs
        before = {node: row.copy() for node, row in draft.probs.items()}
        drafter.draft_ahead(context, draft, limit)
        drafter._wait()
        assert all((draft.probs[node] == row).all() for node, row in before.items())
    drafter.settle()
