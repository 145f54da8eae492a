"""The small drafter: what it proposes, that its cache follows the committed tokens, and that its draws are exact."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from memory.plan import Shape
from runtime.context import Context, shared_prefix
from runtime.decode import decode
from runtime.draft import Draft, DraftLimit, Kind
from runtime.drafters.small import SmallDrafter
from runtime.drafters.window import window_of, window_start
from runtime.sampling import SamplingParams, draw, greedy_token, probabilities, uniform
from runtime.scheduler.fixed import FixedScheduler
from runtime.verify import Verifier
from runtime.verify.block import BlockVerifier
from runtime.verify.match import MatchVerifier
from runtime.verify.recursive import RecursiveVerifier
from tests.runtime.table_model import TableModel, fresh_rows
from tests.runtime.test_decode import Ends

GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.9, seed=3)
TOKENS = [3, 1, 4, 1, 5, 9, 2]


def _context(tokens: list[int], sampling: SamplingParams = GREEDY) -> Context:
    context = Context(64, sampling)
    context.append(tokens)
    return context


def _probs(model: TableModel, tokens: list[int], sampling: SamplingParams) -> np.ndarray:
    fresh = TableModel(model.vocab_size, len(tokens) + 1, seed=model.seed)
    fresh.prefill(tokens[:-1])
    return probabilities(fresh.forward(tokens[-1:]).logits[0], tokens, sampling)


def _paths(draft: Draft) -> list[tuple[int, ...]]:
    paths: list[tuple[int, ...]] = []
    for node, token in enumerate(draft.tokens):
        parent = draft.parents[node]
        paths.append((*(paths[parent] if parent >= 0 else ()), token))
    return paths


def test_a_greedy_chain_is_what_the_model_would_say() -> None:
    model = TableModel()
    draft = SmallDrafter(model, 11, name="tiny").propose(_context(TOKENS), DraftLimit(4, 4))
    tokens = list(TOKENS)
    for token in draft.tokens:
        assert token == int(_probs(model, tokens, SAMPLED).argmax())
        tokens.append(token)
    assert (len(draft), draft.is_chain, draft.kind, draft.source) == (4, True, Kind.ONE_HOT, "tiny")


def test_the_repetition_penalty_counts_drafted_tokens_too() -> None:
    params = SamplingParams(repetition_penalty=3.0)
    model = TableModel()
    draft = SmallDrafter(model, 11).propose(_context(TOKENS, params), DraftLimit(6, 6))
    tokens = list(TOKENS)
    for token in draft.tokens:
        fresh = TableModel()
        fresh.prefill(tokens[:-1])
        assert token == greedy_token(fresh.forward(tokens[-1:]).logits[0], tokens, params)
        tokens.append(token)


def test_a_sampled_chain_draws_with_the_numbers_of_the_positions() -> None:
    model = TableModel()
    draft = SmallDrafter(model, 11).propose(_context(TOKENS, SAMPLED), DraftLimit(5, 5))
    tokens = list(TOKENS)
    for token in draft.tokens:
        assert token == draw(_probs(model, tokens, SAMPLED), uniform(SAMPLED.seed, len(tokens)))
        tokens.append(token)
    assert draft.kind is Kind.ONE_HOT


def test_equal_models_agree_even_when_sampling() -> None:
    context, target = _context(TOKENS, SAMPLED), TableModel()
    steps = decode(
        target,
        context,
        {"small": SmallDrafter(TableModel(), 11)},
        FixedScheduler("small", DraftLimit(3, 3)),
        MatchVerifier(),
        Ends(12),
    )
    assert all(step.num_accepted == 3 for step in steps)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 5))
def test_the_tree_holds_the_most_probable_paths(nodes: int, depth: int, seed: int) -> None:
    model = TableModel(vocab_size=4, seed=seed)
    tokens = [token % 4 for token in TOKENS]
    draft = SmallDrafter(model, 4).propose(_context(tokens), DraftLimit(nodes, depth, "tree"))
    scores: dict[tuple[int, ...], float] = {(): 1.0}
    for length in range(1, depth + 1):
        for path in product(range(4), repeat=length):
            parent = scores.get(path[:-1], 0.0)
            if parent >= 0.01:
                scores[path] = parent * float(_probs(model, [*tokens, *path[:-1]], SamplingParams(1.0))[path[-1]])
    del scores[()]
    best = sorted((score for score in scores.values() if score >= 0.01), reverse=True)[:nodes]
    chosen = sorted((scores[path] for path in _paths(draft)), reverse=True)
    assert chosen == pytest.approx(best, rel=1e-4)
    assert draft.expected == pytest.approx(sum(best), rel=1e-4)
    assert len(set(_paths(draft))) == len(draft)
    assert all(parent < node for node, parent in enumerate(draft.parents))


def test_the_first_path_of_a_tree_lies_in_adjacent_rows() -> None:
    draft = SmallDrafter(TableModel(), 11).propose(_context(TOKENS), DraftLimit(8, 4, "tree"))
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
    drafter = SmallDrafter(model, 11)
    context = _context([1])
    for forgotten, tokens in turns:
        context.truncate(max(1, len(context) - forgotten))
        context.append(tokens)
        draft = drafter.propose(context, DraftLimit(4, 3, shape))
        expected = SmallDrafter(TableModel(), 11).propose(context, DraftLimit(4, 3, shape))
        assert draft == expected
        held = model.cache.tokens.tolist()
        assert held[: len(context)] == context.tokens.tolist()
        assert np.array_equal(model.cache.arrays[0][:, :, : len(held)], fresh_rows(model, held))


def test_drawn_siblings_differ_and_carry_the_law_they_were_drawn_from() -> None:
    drafter = SmallDrafter(TableModel(), 11, drawn=True, branches=3)
    for seed in range(20):
        params = SamplingParams(temperature=1.0, seed=seed)
        draft = drafter.propose(_context(TOKENS, params), DraftLimit(6, 4, "tree"))
        first = [draft.tokens[child] for child in draft.children(-1)]
        assert (len(set(first)), len(draft), draft.kind) == (3, 6, Kind.WITHOUT_REPLACEMENT)
        paths = {-1: TOKENS} | {node: [*TOKENS, *path] for node, path in enumerate(_paths(draft))}
        assert set(draft.probs) == set(draft.parents)
        for parent, probs in draft.probs.items():
            assert np.allclose(probs, _probs(TableModel(), paths[parent], params), atol=1e-6)


def test_catching_up_and_the_first_token_take_one_forward() -> None:
    model = TableModel()
    drafter, context = SmallDrafter(model, 11), _context(TOKENS)
    draft = drafter.propose(context, DraftLimit(3, 3))
    context.append([*draft.tokens, 7])  # all accepted: the last token was never fed, nor was the bonus
    rows: list[int] = []
    forward = model.forward
    model.forward = lambda tokens, *rest: (rows.append(len(tokens)), forward(tokens, *rest))[1]
    drafter.propose(context, DraftLimit(3, 3))
    assert rows == [2, 1, 1]


def test_tokens_the_target_lacks_are_never_proposed() -> None:
    for shape, drawn in (("chain", False), ("tree", False), ("chain", True)):
        drafter = SmallDrafter(TableModel(vocab_size=11), 5, drawn=drawn)
        for start in range(5):
            draft = drafter.propose(_context([start, 1, 2], SAMPLED), DraftLimit(8, 4, shape))
            assert draft.tokens
            assert max(draft.tokens) < 5


def test_tokens_the_drafter_lacks_do_no_harm() -> None:
    context, target = _context([1, 10, 10, 2]), TableModel(vocab_size=11)
    drafter = SmallDrafter(TableModel(vocab_size=7), 11)
    tokens = [t for step in _decoded(target, context, drafter, MatchVerifier(), 12) for t in step.tokens]
    plain = [
        t for step in _decoded(TableModel(), _context([1, 10, 10, 2]), None, MatchVerifier(), 12) for t in step.tokens
    ]
    assert tokens == plain
    assert max(tokens) > 6


WINDOWED = {"capacity": 20, "max_rows": 4}  # 16 positions, less a draft of 4: a window of 13 tokens


@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_drafts_inside_the_window_are_those_of_a_model_without(shape: Shape) -> None:
    small, large = (SmallDrafter(TableModel(**sizes), 11) for sizes in (WINDOWED, {"max_rows": 4}))
    tokens = [place * 7 % 11 for place in range(13)]
    for length in range(1, 14):
        context = _context(tokens[:length])
        assert small.propose(context, DraftLimit(3, 3, shape)) == large.propose(context, DraftLimit(3, 3, shape))


def test_a_context_that_fits_needs_no_window() -> None:
    """Room for as many tokens as the context may have, and a draft's rows: nothing is read twice until its end."""
    model, context = TableModel(capacity=64 + 4, max_rows=4), _context([])
    drafter = SmallDrafter(model, 11)
    for length in range(1, 64):
        context.append([length % 11])
        depth = min(3, 64 - length)
        assert len(drafter.propose(context, DraftLimit(3, depth))) == depth
        assert model.cache.tokens[:length].tolist() == context.tokens.tolist()


@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_a_long_conversation_keeps_its_drafts_in_a_bounded_cache(shape: Shape) -> None:
    model, tokens = TableModel(**WINDOWED), [place * place % 11 for place in range(64)]
    drafter, read = SmallDrafter(model, 11), 0
    for length in range(1, 64):
        context, held = _context(tokens[:length]), model.cache.tokens.tolist()
        draft = drafter.propose(context, DraftLimit(3, 3, shape))
        window = tokens[window_start(length, 13) : length]
        assert draft == SmallDrafter(TableModel(max_rows=4), 11).propose(_context(window), DraftLimit(3, 3, shape))
        assert 1 <= len(draft) <= 3
        read += len(window) - min(shared_prefix(held, window), len(window) - 1)
    # Once as they come, the last kept one again, and the half that is kept at each of the 9 moves by 6.
    assert read <= 64 + 9 * 7


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.lists(st.integers(0, 10), min_size=1, max_size=30)), max_size=6))
def test_a_window_follows_any_change_of_the_committed_tokens(turns: list[tuple[int, list[int]]]) -> None:
    model, context = TableModel(**WINDOWED), Context(256, GREEDY)
    drafter = SmallDrafter(model, 11)
    context.append([1])
    for forgotten, tokens in turns:
        context.truncate(max(1, len(context) - forgotten))
        context.append(tokens)
        draft = drafter.propose(context, DraftLimit(3, 3, "tree"))
        assert draft == SmallDrafter(TableModel(**WINDOWED), 11).propose(context, DraftLimit(3, 3, "tree"))
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
    for drafter in (None, SmallDrafter(TableModel(**WINDOWED), 11, drawn=drawn)):
        steps = list(_decoded(TableModel(), _context(TOKENS, params), drafter, MatchVerifier(), 50, shape))
        answers.append([token for step in steps for token in step.tokens])
    assert answers[0] == answers[1]
    assert all(step.num_drafted for step in steps[:-1])
    assert sum(step.num_accepted for step in steps) > 0


def test_a_cache_without_room_for_a_window_gives_no_drafts() -> None:
    assert len(SmallDrafter(TableModel(capacity=8, max_rows=4), 11).propose(_context([1]), DraftLimit(3, 3))) == 0


def test_the_window_follows_a_model_that_was_resized() -> None:
    model, tokens = TableModel(capacity=96, max_rows=4), [place * 7 % 11 for place in range(40)]
    drafter, small = SmallDrafter(model, 11), SmallDrafter(TableModel(**WINDOWED), 11)
    drafter.propose(_context(tokens), DraftLimit(3, 3))
    model.cache.rollback(16)
    model.cache.resize(20)
    assert drafter.propose(_context(tokens), DraftLimit(3, 3)) == small.propose(_context(tokens), DraftLimit(3, 3))


def _decoded(
    target: TableModel,
    context: Context,
    drafter: SmallDrafter | None,
    verifier: Verifier,
    length: int,
    shape: Shape = "chain",
):
    name = drafter.name if drafter else None
    scheduler = FixedScheduler(name, DraftLimit(4, 2, shape))
    return decode(target, context, {name: drafter} if drafter else {}, scheduler, verifier, Ends(length))


@pytest.mark.parametrize(
    ("shape", "drawn", "verifier"),
    [
        ("chain", True, BlockVerifier()),
        ("chain", False, BlockVerifier()),
        ("tree", True, RecursiveVerifier()),
        ("tree", False, RecursiveVerifier()),
        ("chain", True, MatchVerifier()),
    ],
    ids=["block", "block on one-hot", "recursive", "recursive on one-hot", "match"],
)
def test_the_first_three_tokens_have_the_law_of_the_target(shape: Shape, drawn: bool, verifier: Verifier) -> None:
    vocab, prompt, runs = 3, [1, 0, 2], 800
    target = TableModel(vocab, seed=2)
    expected = {}
    for path in product(range(vocab), repeat=3):
        law = 1.0
        for place, token in enumerate(path):
            law *= float(_probs(target, [*prompt, *path[:place]], SamplingParams(1.5))[token])
        expected[path] = law * runs
    seen = dict.fromkeys(expected, 0)
    drafter = SmallDrafter(TableModel(vocab, seed=4), vocab, drawn=drawn)
    for seed in range(runs):
        context = _context(prompt, SamplingParams(1.5, seed=seed))
        tokens = [token for step in _decoded(target, context, drafter, verifier, 3, shape) for token in step.tokens]
        seen[tuple(tokens)] += 1
    few = [path for path in expected if expected[path] < 5]
    counts = [seen[path] for path in expected if path not in few] + ([sum(seen[path] for path in few)] if few else [])
    means = [expected[path] for path in expected if path not in few] + (
        [sum(expected[path] for path in few)] if few else []
    )
    assert chisquare(counts, np.array(means) * sum(counts) / sum(means)).pvalue > 1e-3
