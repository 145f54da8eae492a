"""Verifiers as the loop calls them: real rows of logits, sampling settings, and the production random numbers."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.decoding.acceptance.block import BlockVerifier
from runtime.decoding.acceptance.greedy import GreedyVerifier
from runtime.decoding.acceptance.recursive import RecursiveVerifier
from runtime.decoding.acceptance.sample_and_match import MatchVerifier
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DrawKind, Verdict, make_chain
from runtime.decoding.protocols import Verifier
from runtime.decoding.sampling import (
    RandomStream,
    SamplingError,
    SamplingParams,
    draw,
    greedy_token,
    probabilities,
    uniform,
)
from tests.goodness_of_fit import chi_square

VOCAB = 7
SAMPLING = {"temperature": 0.8, "top_k": 5, "top_p": 0.95}
ALL: list[Verifier] = [GreedyVerifier(), MatchVerifier(), BlockVerifier(), RecursiveVerifier()]
SAMPLED = ALL[1:]


def context_of(tokens: list[int], sampling: SamplingParams) -> Context:
    context = Context(64, sampling)
    context.append(tokens)
    return context


@functools.cache
def logits_after(tokens: tuple[int, ...], model: int = 0, scale: float = 1.5) -> Any:
    """A model: random logits that hang on the whole prefix."""
    return np.random.default_rng([model, len(tokens), *tokens]).standard_normal(VOCAB).astype(np.float32) * scale


def rows_of(draft: Draft, committed: list[int]) -> Any:
    """What the target computes for a draft: row 0 follows the anchor, row i + 1 node i."""
    return np.stack(
        [logits_after((*committed, *path)) for path in [(), *(path_to(draft, n) for n in range(len(draft)))]]
    )


def path_to(draft: Draft, node: int) -> tuple[int, ...]:
    path: tuple[int, ...] = ()
    while node >= 0:
        path, node = (draft.tokens[node], *path), draft.parents[node]
    return path


def tokens_of(draft: Draft, verdict: Verdict) -> tuple[int, ...]:
    return (*(draft.tokens[node] for node in verdict.path), verdict.token)


@st.composite
def drafts(make: Any) -> Draft:
    """Any tree at all, siblings with equal tokens and ids beyond the vocabulary included."""
    size = make(st.integers(0, 8))
    parents = tuple(make(st.integers(-1, node - 1)) for node in range(size))
    return Draft(tuple(make(st.integers(0, VOCAB)) for _ in range(size)), parents)


PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.5, 1.0]),
    top_k=st.sampled_from([0, 3]),
    top_p=st.sampled_from([1.0, 0.7]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    seed=st.integers(0, 50),
)


@settings(max_examples=150, deadline=None)
@given(drafts(), PARAMS, st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=5))
def test_match_yields_plain_sampling_token_for_token(draft: Draft, params: SamplingParams, prompt: list[int]) -> None:
    context = context_of(prompt, params)
    plain = list(prompt)
    for position in range(len(prompt), len(prompt) + 10):
        probs = probabilities(logits_after(tuple(plain)), plain, params)
        plain.append(draw(probs, uniform(params.seed, position)))
    logits = rows_of(draft, prompt)
    accepted = tokens_of(draft, MatchVerifier().accept(draft, logits, context))
    assert list(accepted) == plain[len(prompt) : len(prompt) + len(accepted)]
    verdict = MatchVerifier().accept(draft, logits, context)
    last = verdict.path[-1] if verdict.path else -1
    assert verdict.token not in {draft.tokens[child] for child in draft.children(last)}
    if params.temperature == 0:
        for verifier in ALL:
            assert tokens_of(draft, verifier.accept(draft, logits, context)) == accepted, verifier.name


def test_greedy_walks_the_tree() -> None:
    """Nodes A=3, B=4 below the anchor, C=5 below B; the target wants 4, 5, 6."""
    draft = Draft((3, 4, 5), (-1, -1, 1))
    logits = np.zeros((4, VOCAB), np.float32)
    for row, token in enumerate((4, 0, 5, 6)):
        logits[row, token] = 1
    context = context_of([1], SamplingParams())
    assert GreedyVerifier().accept(draft, logits, context) == Verdict((1, 2), 6)
    logits[2, 2] = 2  # after B the target wants something else
    assert GreedyVerifier().accept(draft, logits, context) == Verdict((1,), 2)
    logits[0, 0] = 2
    assert GreedyVerifier().accept(draft, logits, context) == Verdict((), 0)
    assert GreedyVerifier().accept(Draft(), logits[:1], context) == Verdict((), 0)


def test_penalty_counts_the_path() -> None:
    """The target prefers 2, then 1, then 3; the penalty makes it leave each after one use, as in plain decoding."""
    params = SamplingParams(repetition_penalty=2.0)
    logits = np.tile(np.array([0, 1.1, 1.5, 0.9, 0, 0, 0], np.float32), (4, 1))
    context = context_of([5], params)
    assert GreedyVerifier().accept(make_chain([2, 2, 2]), logits, context) == Verdict((0,), 1)
    assert GreedyVerifier().accept(make_chain([2, 1, 3]), logits, context) == Verdict((0, 1, 2), 2)
    assert greedy_token(logits[0], [5, 2, 1], params) == 3


def test_greedy_refuses_to_be_inexact() -> None:
    context = context_of([1], SamplingParams(temperature=0.7))
    with pytest.raises(SamplingError, match=r"temperature 0\.7, allowed: 0; use the match verifier"):
        GreedyVerifier().accept(Draft(), np.zeros((1, VOCAB), np.float32), context)


@pytest.mark.parametrize("verifier", SAMPLED, ids=lambda verifier: verifier.name)
def test_rows_that_are_not_visited_are_not_read(verifier: Verifier) -> None:
    """A tree whose first branch is certain: the rows of the second may hold anything."""
    draft = Draft((3, 4, 5), (-1, -1, 1), DrawKind.ONE_HOT)
    logits = np.full((4, VOCAB), np.nan, np.float32)
    logits[:2] = 0
    logits[0, 3] = logits[1, 6] = 200
    for seed in range(5):
        context = context_of([1], SamplingParams(temperature=1.0, seed=seed))
        assert verifier.accept(draft, logits, context) == Verdict((0,), 6)


@pytest.mark.parametrize("verifier", SAMPLED, ids=lambda verifier: verifier.name)
def test_verdicts_depend_on_seed_and_position_alone(verifier: Verifier) -> None:
    def verdicts(seed: int, prompt: list[int]) -> list[Verdict]:
        draft, logits = drawn_chain(prompt, seed=3), rows_of(drawn_chain(prompt, seed=3), prompt)
        context = context_of(prompt, SamplingParams(**SAMPLING, seed=seed))
        return [verifier.accept(draft, logits, context) for _ in range(2)]

    for seed in range(5):
        assert len(set(verdicts(seed, [1, 2]))) == 1
    assert len({verdicts(seed, [1, 2])[0] for seed in range(40)}) > 1


# The law, with the numbers used in production


def drawn_chain(prompt: list[int], seed: int, depth: int = 2) -> Draft:
    params = SamplingParams(**SAMPLING, seed=seed)
    tokens: list[int] = []
    probs = {}
    for node in range(depth):
        probs[node - 1] = probabilities(logits_after((*prompt, *tokens), model=1), (), params)
        tokens.append(draw(probs[node - 1], uniform(seed, len(prompt), RandomStream.DRAFTER, node)))
    return make_chain(tokens, kind=DrawKind.INDEPENDENT, probs=probs)


def drawn_siblings(prompt: list[int], seed: int) -> Draft:
    left = probabilities(logits_after(tuple(prompt), model=1), (), SamplingParams(**SAMPLING))
    draft = Draft((), (), DrawKind.WITHOUT_REPLACEMENT, {-1: left.copy()})
    for index in range(2):
        token = draw(left, uniform(seed, len(prompt), RandomStream.DRAFTER, index))
        draft = Draft((*draft.tokens, token), (*draft.parents, -1), draft.kind, draft.probs)
        left[token] = 0
    return draft


def chosen_siblings(prompt: list[int], seed: int) -> Draft:
    best = np.argsort(-logits_after(tuple(prompt), model=1))
    return Draft((int(best[0]), int(best[1]), int(best[0])), (-1, -1, 1))


MAKERS = [drawn_chain, drawn_siblings, chosen_siblings]


@pytest.mark.parametrize(
    ("verifier", "make"),
    [
        pytest.param(verifier, make, marks=[pytest.mark.slow] if (number + place) % 3 == 1 else [])
        for number, verifier in enumerate(SAMPLED)
        for place, make in enumerate(MAKERS)
    ],
    ids=lambda value: getattr(value, "name", None) or value.__name__,
)
def test_sampled_text_has_the_target_law(verifier: Verifier, make: Any) -> None:
    """Chi-square on the first two tokens; a step that yields one is followed by another without a draft."""
    prompt, draws, shift = [1, 2, 3], 1500, 10_000
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(shift, shift + draws):
        params = SamplingParams(**SAMPLING, seed=seed)
        draft = make(prompt, seed)
        text = tokens_of(draft, verifier.accept(draft, rows_of(draft, prompt), context_of(prompt, params)))
        if len(text) == 1:
            after = [*prompt, *text]
            text += tokens_of(Draft(), verifier.accept(Draft(), rows_of(Draft(), after), context_of(after, params)))
        counts[text[:2]] += 1
    law = {}
    for first, second in itertools.product(range(VOCAB), repeat=2):
        params = SamplingParams(**SAMPLING)
        law[first, second] = float(
            probabilities(logits_after(tuple(prompt)), (), params)[first]
            * probabilities(logits_after((*prompt, first)), (), params)[second]
        )
    assert all(law[text] > 0 for text in counts)
    assert p_value(counts, law, draws) > 1e-4


def p_value(counts: Counter[tuple[int, ...]], law: dict[tuple[int, ...], float], draws: int) -> float:
    """The p-value, all cells that expect fewer than 5 merged into one."""
    large = [cell for cell, chance in law.items() if chance * draws >= 5]
    observed = [counts[cell] for cell in large]
    expected = [law[cell] * draws for cell in large]
    observed.append(draws - sum(observed))
    expected.append(draws - sum(expected))
    if expected[-1] < 5:
        observed[-2:], expected[-2:] = [sum(observed[-2:])], [sum(expected[-2:])]
    return chi_square(observed, expected)
