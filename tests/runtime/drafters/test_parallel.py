"""Drafts from one forward: what is proposed, that text stays the target's, and that no mask stays in the cache."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.manifest import ParallelDrafts
from runtime.decoding.acceptance.block import BlockVerifier
from runtime.decoding.acceptance.recursive import RecursiveVerifier
from runtime.decoding.draft import DraftLimit, DrawKind, chain_limit
from runtime.decoding.protocols import Verifier
from runtime.decoding.sampling import SamplingParams, draw, uniform
from runtime.drafters.parallel import ParallelDrafter
from tests.runtime.decoding.acceptance.enumerated_step import VOCAB, step_distance
from tests.runtime.decoding.acceptance.enumeration import EXACT
from tests.runtime.levels import context_of, probs_of, text_of
from tests.runtime.table_model import TableModel, fresh_rows

MASK = 10
PARALLEL = ParallelDrafts(MASK, 5)
GREEDY, SAMPLED = SamplingParams(), SamplingParams(temperature=0.9, seed=3)
TOKENS = [3, 1, 4, 1, 5, 9, 2]
RULES: dict[str, Verifier] = {"block": BlockVerifier(), "recursive": RecursiveVerifier()}


class CountingModel(TableModel):
    """Notes the rows of every forward."""

    def __init__(self, **sizes) -> None:
        super().__init__(**sizes)
        self.forwards: list[list[int]] = []

    def forward(self, tokens, parents=None, logits_from=0):
        self.forwards.append([int(token) for token in tokens])
        return super().forward(tokens, parents, logits_from)


def _drafter(model: TableModel, drawn: bool = False) -> ParallelDrafter:
    return ParallelDrafter(model, PARALLEL, 11, drawn=drawn)


def test_each_token_is_what_follows_the_text_and_the_masks_before_it() -> None:
    draft = _drafter(TableModel()).propose(context_of(TOKENS, GREEDY), chain_limit(4))
    wanted = [int(probs_of(TableModel(), TOKENS + [MASK] * place, SAMPLED).argmax()) for place in range(4)]
    assert draft.tokens == tuple(wanted)
    assert (draft.is_chain, draft.kind) == (True, DrawKind.ONE_HOT)


@pytest.mark.parametrize("drawn", [False, True], ids=["chosen", "drawn"])
def test_sampled_drafts_draw_each_token_from_its_own_row(drawn: bool) -> None:
    draft = _drafter(TableModel(), drawn).propose(context_of(TOKENS, SAMPLED), chain_limit(4))
    if not drawn:
        for place, token in enumerate(draft.tokens):
            probs = probs_of(TableModel(), TOKENS + [MASK] * place, SAMPLED)
            assert token == draw(probs, uniform(SAMPLED.seed, len(TOKENS) + place))
    for parent, probs in draft.probs.items():
        np.testing.assert_array_equal(probs, probs_of(TableModel(), TOKENS + [MASK] * (parent + 1), SAMPLED))
    assert len(draft) == 4
    assert set(draft.probs) == (set(range(-1, 3)) if drawn else set())


@pytest.mark.parametrize("limit", [chain_limit(5), chain_limit(9), DraftLimit(9, 5, "tree")], ids=str)
def test_a_draft_takes_one_forward_and_is_no_longer_than_it_was_trained_for(limit: DraftLimit) -> None:
    model, context = CountingModel(), context_of(TOKENS, GREEDY)
    drafter = _drafter(model)
    draft = drafter.propose(context, limit)
    assert (len(draft), draft.is_chain, draft.rows_read) == (5, True, 6)
    context.append([7, 8])
    assert drafter.propose(context, chain_limit(3)).rows_read == 1
    assert model.forwards == [[*TOKENS, MASK, MASK, MASK, MASK], [7, 8, MASK, MASK]]


def test_what_one_forward_has_no_room_for_is_read_before() -> None:
    model = CountingModel(max_rows=8, pad=lambda rows: rows + rows % 2)
    draft = _drafter(model).propose(context_of(TOKENS, GREEDY), chain_limit(5))
    assert model.forwards == [[TOKENS[-1], MASK, MASK, MASK, MASK]]
    assert draft.tokens == _drafter(TableModel()).propose(context_of(TOKENS, GREEDY), chain_limit(5)).tokens
    narrow = CountingModel(max_rows=4)
    assert len(_drafter(narrow).propose(context_of(TOKENS, GREEDY), chain_limit(5))) == 4


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_draft_keeps_the_token_that_ends_it(params: SamplingParams) -> None:
    whole = _drafter(TableModel()).propose(context_of(TOKENS, params), DraftLimit(5, 5, floor=1e-9))
    survival = np.cumprod(whole.chances)
    for floor in (0.01, 0.1, 0.3):
        draft = _drafter(TableModel()).propose(context_of(TOKENS, params), DraftLimit(5, 5, floor=floor))
        ends = next((n for n in range(1, 5) if survival[n - 1] ** (1 + 1 / n) < floor), 5)
        assert draft.tokens == whole.tokens[:ends]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.lists(st.integers(0, 9), min_size=1, max_size=4)), max_size=8))
def test_the_cache_after_any_change_of_the_text_is_that_of_a_new_drafter(changes) -> None:
    model, text = TableModel(), list(TOKENS)
    drafter = _drafter(model)
    for cut, more in changes:
        text = [*text[: max(1, len(text) - cut)], *more]
        context = context_of(text, SAMPLED)
        fresh = _drafter(TableModel()).propose(context, chain_limit(4))
        assert drafter.propose(context, chain_limit(4)).tokens == fresh.tokens
        assert model.cache.tokens.tolist() == text
        np.testing.assert_array_equal(model.cache.arrays[0][:, :, : len(text)], fresh_rows(model, text))


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("seed", [0, 1], ids=["same weights", "other weights"])
def test_text_is_the_targets(params: SamplingParams, seed: int) -> None:
    drafter = ParallelDrafter(TableModel(seed=seed), PARALLEL, 11)
    plain = text_of(TableModel(), context_of(TOKENS, params), None, chain_limit(0))
    assert text_of(TableModel(), context_of(TOKENS, params), drafter, chain_limit(5)) == plain


@pytest.mark.parametrize("rule", RULES)
def test_drawn_drafts_keep_the_targets_law(monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    parallel = ParallelDrafts(VOCAB - 1, 3)
    drafter = ParallelDrafter(TableModel(VOCAB, seed=40), parallel, VOCAB, drawn=True)
    limit = DraftLimit(3, 3, floor=0.3)
    params = SamplingParams(temperature=3.0)
    assert step_distance(monkeypatch, TableModel(VOCAB, seed=7), drafter, limit, RULES[rule], params) < EXACT
