"""The small drafter: what it proposes, that its cache follows the committed tokens, and that its draws are exact."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.plan import Shape
from runtime.decoding.acceptance.block import BlockVerifier
from runtime.decoding.acceptance.recursive import RecursiveVerifier
from runtime.decoding.acceptance.sample_and_match import MatchVerifier
from runtime.decoding.draft import Draft, DraftLimit, DrawKind
from runtime.decoding.protocols import Verifier
from runtime.decoding.sampling import SamplingParams, draw, greedy_token, uniform
from runtime.decoding.stop import StopRule
from runtime.drafters.draft_model import DraftModelDrafter
from tests.runtime.levels import context_of, decoded, law_pvalue, probs_of, text_of
from tests.runtime.table_model import TableModel, fresh_rows

GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.9, seed=3)
TOKENS = [3, 1, 4, 1, 5, 9, 2]


def _paths(draft: Draft) -> list[tuple[int, ...]]:
    paths: list[tuple[int, ...]] = []
    for node, token in enumerate(draft.tokens):
        parent = draft.parents[node]
        paths.append((*(paths[parent] if parent >= 0 else ()), token))
    return paths


def test_a_greedy_chain_is_what_the_model_would_say() -> None:
    model = TableModel()
    draft = DraftModelDrafter(model, 11, name="tiny").propose(context_of(TOKENS, GREEDY), DraftLimit(4, 4))
    tokens = list(TOKENS)
    for token in draft.tokens:
        assert token == int(probs_of(model, tokens, SAMPLED).argmax())
        tokens.append(token)
    assert (len(draft), draft.is_chain, draft.kind, draft.source) == (4, True, DrawKind.ONE_HOT, "tiny")


def test_the_repetition_penalty_counts_drafted_tokens_too() -> None:
    params = SamplingParams(repetition_penalty=3.0)
    model = TableModel()
    draft = DraftModelDrafter(model, 11).propose(context_of(TOKENS, params), DraftLimit(6, 6))
    tokens = list(TOKENS)
    for token in draft.tokens:
        fresh = TableModel()
        fresh.prefill(tokens[:-1])
        assert token == greedy_token(fresh.forward(tokens[-1:]).logits[0], tokens, params)
        tokens.append(token)


def test_a_sampled_chain_draws_with_the_numbers_of_the_positions() -> None:
    model = TableModel()
    draft = DraftModelDrafter(model, 11).propose(context_of(TOKENS, SAMPLED), DraftLimit(5, 5))
    tokens = list(TOKENS)
    for token in draft.tokens:
        assert token == draw(probs_of(model, tokens, SAMPLED), uniform(SAMPLED.seed, len(tokens)))
        tokens.append(token)
    assert draft.kind is DrawKind.ONE_HOT


def test_equal_models_agree_even_when_sampling() -> None:
    drafter, stop = DraftModelDrafter(TableModel(), 11), StopRule(max_new_tokens=12)
    steps = decoded(TableModel(), context_of(TOKENS, SAMPLED), drafter, DraftLimit(3, 3), stop=stop)
    assert all(step.num_accepted == 3 for step in steps)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 5))
def test_the_tree_holds_the_most_probable_paths(nodes: int, depth: int, seed: int) -> None:
    model = TableModel(vocab_size=4, seed=seed)
    tokens = [token % 4 for token in TOKENS]
    draft = DraftModelDrafter(model, 4).propose(context_of(tokens, GREEDY), DraftLimit(nodes, depth, "tree"))
    scores: dict[tuple[int, ...], float] = {(): 1.0}
    for length in range(1, depth + 1):
        for path in product(range(4), repeat=length):
            parent = scores.get(path[:-1], 0.0)
            if parent >= 0.01:
                scores[path] = parent * float(probs_of(model, [*tokens, *path[:-1]], SamplingParams(1.0))[path[-1]])
    del scores[()]
    best = sorted((score for score in scores.values() if score >= 0.01), reverse=True)[:nodes]
    chosen = sorted((scores[path] for path in _paths(draft)), reverse=True)
    assert chosen == pytest.approx(best, rel=1e-4)
    assert draft.expected == pytest.approx(sum(best), rel=1e-4)
    assert len(set(_paths(draft))) == len(draft)
    assert all(parent < node for node, parent in enumerate(draft.parents))


def test_the_first_path_of_a_tree_lies_in_adjacent_rows() -> None:
    draft = DraftModelDrafter(TableModel(), 11).propose(context_of(TOKENS, GREEDY), DraftLimit(8, 4, "tree"))
    best = [-1]
    while children := draft.children(best[-1]):
        best.append(children[0])
    assert best == list(range(-1, len(best) - 1))


history = st.lists(
    st.tuples(st.integers(0, 9), st.lists(st.integers(0, 10), min_size=1, max_size=6)), min_size=1, max_size=6
)


@settings(max_examples=40, deadline=None)
@given(history, st.sampled_from(["chain", "tree"]))
def test_its_cache_follows_any_change_of_the_committed_tokens(turns: list[tuple[int, list[int]]], shape: Shape) -> None:
    model = TableModel()
    drafter = DraftModelDrafter(model, 11)
    context = context_of([1], GREEDY)
    for forgotten, tokens in turns:
        context.truncate(max(1, len(context) - forgotten))
        context.append(tokens)
        draft = drafter.propose(context, DraftLimit(4, 3, shape))
        expected = DraftModelDrafter(TableModel(), 11).propose(context, DraftLimit(4, 3, shape))
        assert replace(draft, rows_read=expected.rows_read, reviewed=expected.reviewed) == expected
        held = model.cache.tokens.tolist()
        assert held[: len(context)] == context.tokens.tolist()
        assert np.array_equal(model.cache.arrays[0][:, :, : len(held)], fresh_rows(model, held))


def test_drawn_siblings_differ_and_carry_the_law_they_were_drawn_from() -> None:
    drafter = DraftModelDrafter(TableModel(), 11, drawn=True, branches=3)
    for seed in range(20):
        params = SamplingParams(temperature=1.0, seed=seed)
        draft = drafter.propose(context_of(TOKENS, params), DraftLimit(6, 4, "tree"))
        first = [draft.tokens[child] for child in draft.children(-1)]
        assert (len(set(first)), len(draft), draft.kind) == (3, 6, DrawKind.WITHOUT_REPLACEMENT)
        paths = {-1: TOKENS} | {node: [*TOKENS, *path] for node, path in enumerate(_paths(draft))}
        assert set(draft.probs) == set(draft.parents)
        for parent, probs in draft.probs.items():
            assert np.allclose(probs, probs_of(TableModel(), paths[parent], params), atol=1e-6)


def test_catching_up_and_the_first_token_take_one_forward() -> None:
    model = TableModel()
    drafter, context = DraftModelDrafter(model, 11), context_of(TOKENS, GREEDY)
    draft = drafter.propose(context, DraftLimit(3, 3))
    assert draft.rows_read == len(TOKENS) - 1
    context.append([*draft.tokens, 7])  # all accepted: the last token was never fed, nor was the bonus
    rows: list[int] = []
    forward = model.forward
    model.forward = lambda tokens, *rest: (rows.append(len(tokens)), forward(tokens, *rest))[1]
    assert drafter.propose(context, DraftLimit(3, 3)).rows_read == 1
    assert rows == [2, 1, 1]


def test_tokens_the_target_lacks_are_never_proposed() -> None:
    for shape, drawn in (("chain", False), ("tree", False), ("chain", True)):
        drafter = DraftModelDrafter(TableModel(vocab_size=11), 5, drawn=drawn)
        for start in range(5):
            draft = drafter.propose(context_of([start, 1, 2], SAMPLED), DraftLimit(8, 4, shape))
            assert draft.tokens
            assert max(draft.tokens) < 5


def test_tokens_the_drafter_lacks_do_no_harm() -> None:
    drafter, limit = DraftModelDrafter(TableModel(vocab_size=7), 11), DraftLimit(4, 4)
    tokens, plain = (text_of(TableModel(), context_of([1, 10, 10, 2], GREEDY), each, limit) for each in (drafter, None))
    assert tokens == plain
    assert max(tokens) > 6


@pytest.mark.parametrize(
    ("shape", "drawn", "verifier"),
    [
        ("chain", True, BlockVerifier()),
        pytest.param("chain", False, BlockVerifier(), marks=pytest.mark.slow),
        ("tree", True, RecursiveVerifier()),
        pytest.param("tree", False, RecursiveVerifier(), marks=pytest.mark.slow),
        pytest.param("chain", True, MatchVerifier(), marks=pytest.mark.slow),
    ],
    ids=["block", "block on one-hot", "recursive", "recursive on one-hot", "match"],
)
def test_the_first_three_tokens_have_the_law_of_the_target(shape: Shape, drawn: bool, verifier: Verifier) -> None:
    drafter = DraftModelDrafter(TableModel(3, seed=4), 3, drawn=drawn)
    assert law_pvalue(TableModel(3, seed=2), drafter, DraftLimit(4, 2, shape), verifier, runs=800) > 1e-3


@pytest.mark.parametrize("max_rows", [12, 5])
def test_what_it_would_have_drafted_of_text_that_came_without_it_is_told(max_rows: int) -> None:
    """The law: each word of the review is whether a draft of one token at that place would have been right."""
    written = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]
    (guess,) = _guess_after(written)
    context = context_of([*written, guess, 7], GREEDY)
    told = DraftModelDrafter(TableModel(max_rows=max_rows), 11).propose(context, DraftLimit(2, 2)).reviewed
    text = context.tokens.tolist()
    right = [_guess_after(text[:place]) == (text[place],) for place in range(1, len(text))]
    assert told == tuple(right[-(max_rows - 1) :])
    assert True in told
    assert False in told


def _guess_after(tokens: list[int]) -> tuple[int, ...]:
    return DraftModelDrafter(TableModel(), 11).propose(context_of(tokens, GREEDY), DraftLimit(1, 1)).tokens


def test_nothing_is_told_where_there_is_no_room_or_no_meaning() -> None:
    def told(params: SamplingParams, logits_rows: int = 12) -> tuple[bool, ...]:
        model = TableModel()
        model.logits_rows = logits_rows
        return DraftModelDrafter(model, 11).propose(context_of(TOKENS, params), DraftLimit(2, 2)).reviewed

    assert len(told(GREEDY)) == len(TOKENS) - 1
    assert told(GREEDY, logits_rows=1) == told(SAMPLED) == told(SamplingParams(repetition_penalty=2.0)) == ()
