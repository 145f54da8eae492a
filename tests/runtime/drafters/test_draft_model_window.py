"""The small drafter on texts longer than its cache: it drafts from their latest part."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.plan import Shape
from runtime.decoding.context import Context, shared_prefix
from runtime.decoding.draft import Draft, DraftLimit
from runtime.decoding.sampling import SamplingParams
from runtime.decoding.stop import StopRule
from runtime.drafters.draft_model import DraftModelDrafter
from runtime.drafters.window import window_of, window_start
from tests.runtime.levels import context_of, decoded
from tests.runtime.table_model import TableModel, fresh_rows

GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.9, seed=3)
TOKENS = [3, 1, 4, 1, 5, 9, 2]
WINDOWED = {"capacity": 20, "max_rows": 4}  # 16 positions, less a draft of 4: a window of 13 tokens


def _guess(draft: Draft) -> Draft:
    """The draft without what it cost."""
    return replace(draft, rows_read=0, reviewed=())


@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_drafts_inside_the_window_are_those_of_a_model_without(shape: Shape) -> None:
    small, large = (DraftModelDrafter(TableModel(**sizes), 11) for sizes in (WINDOWED, {"max_rows": 4}))
    tokens = [place * 7 % 11 for place in range(13)]
    for length in range(1, 14):
        context = context_of(tokens[:length], GREEDY)
        drafts = [each.propose(context, DraftLimit(3, 3, shape)) for each in (small, large)]
        assert _guess(drafts[0]) == _guess(drafts[1])


def test_a_context_that_fits_needs_no_window() -> None:
    """Room for as many tokens as the context may have, and a draft's rows: nothing is read twice until its end."""
    model, context = TableModel(capacity=64 + 4, max_rows=4), context_of([], GREEDY)
    drafter = DraftModelDrafter(model, 11)
    for length in range(1, 64):
        context.append([length % 11])
        depth = min(3, 64 - length)
        assert len(drafter.propose(context, DraftLimit(3, depth))) == depth
        assert model.cache.tokens[:length].tolist() == context.tokens.tolist()


@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_a_long_conversation_keeps_its_drafts_in_a_bounded_cache(shape: Shape) -> None:
    model, tokens = TableModel(**WINDOWED), [place * place % 11 for place in range(64)]
    drafter, read = DraftModelDrafter(model, 11), 0
    for length in range(1, 64):
        context, held = context_of(tokens[:length], GREEDY), model.cache.tokens.tolist()
        draft = drafter.propose(context, DraftLimit(3, 3, shape))
        window = tokens[window_start(length, 13) : length]
        alone = DraftModelDrafter(TableModel(max_rows=4), 11)
        assert _guess(draft) == _guess(alone.propose(context_of(window, GREEDY), DraftLimit(3, 3, shape)))
        assert 1 <= len(draft) <= 3
        assert draft.rows_read == len(window) - 1 - min(shared_prefix(held, window), len(window) - 1)
        read += draft.rows_read + 1
    # Once as they come, the last kept one again, and the half that is kept at each of the 9 moves by 6.
    assert read <= 64 + 9 * 7


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.lists(st.integers(0, 10), min_size=1, max_size=30)), max_size=6))
def test_a_window_follows_any_change_of_the_committed_tokens(turns: list[tuple[int, list[int]]]) -> None:
    model, context = TableModel(**WINDOWED), Context(256, GREEDY)
    drafter = DraftModelDrafter(model, 11)
    context.append([1])
    for forgotten, tokens in turns:
        context.truncate(max(1, len(context) - forgotten))
        context.append(tokens)
        draft = drafter.propose(context, DraftLimit(3, 3, "tree"))
        alone = DraftModelDrafter(TableModel(**WINDOWED), 11)
        assert _guess(draft) == _guess(alone.propose(context, DraftLimit(3, 3, "tree")))
        held, window = model.cache.tokens.tolist(), window_of(context.tokens, 13).tolist()
        assert held[: len(window)] == window
        assert np.array_equal(model.cache.arrays[0][:, :, : len(held)], fresh_rows(model, held))


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize(
    ("shape", "drawn"),
    [("chain", False), ("tree", False), ("chain", True), ("tree", True)],
)
def test_answers_longer_than_the_window_are_those_of_plain_decoding(
    shape: Shape, drawn: bool, params: SamplingParams
) -> None:
    answers = []
    for drafter in (None, DraftModelDrafter(TableModel(**WINDOWED), 11, drawn=drawn)):
        limit, stop = DraftLimit(4, 2, shape), StopRule(max_new_tokens=50)
        steps = list(decoded(TableModel(), context_of(TOKENS, params), drafter, limit, stop=stop))
        answers.append([token for step in steps for token in step.tokens])
    assert answers[0] == answers[1]
    assert all(step.num_drafted for step in steps[:-1])
    assert sum(step.num_accepted for step in steps) > 0


def test_a_cache_without_room_for_a_window_gives_no_drafts() -> None:
    assert (
        len(
            DraftModelDrafter(TableModel(capacity=8, max_rows=4), 11).propose(context_of([1], GREEDY), DraftLimit(3, 3))
        )
        == 0
    )


def test_the_window_follows_a_model_that_was_resized() -> None:
    model, tokens = TableModel(capacity=96, max_rows=4), [place * 7 % 11 for place in range(40)]
    drafter, small = DraftModelDrafter(model, 11), DraftModelDrafter(TableModel(**WINDOWED), 11)
    drafter.propose(context_of(tokens, GREEDY), DraftLimit(3, 3))
    model.cache.rollback(16)
    model.cache.resize(20)
    drafts = [each.propose(context_of(tokens, GREEDY), DraftLimit(3, 3)) for each in (drafter, small)]
    assert _guess(drafts[0]) == _guess(drafts[1])
