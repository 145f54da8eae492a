"""The suffix drafter against a naive one: same chances, same drafts, whatever was added or taken back before."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.plan import Shape
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DraftLimit
from runtime.decoding.sampling import SamplingParams
from runtime.drafters.suffix import BYTES_PER_TOKEN, SuffixDrafter

WIDE = DraftLimit(8, 8)
TOKENS = st.lists(st.integers(0, 3), max_size=40)


def context_of(tokens: list[int], capacity: int = 1 << 14) -> Context:
    context = Context(capacity, SamplingParams())
    context.append(tokens)
    return context


def naive_chances(tokens: list[int], depth: int, reach: float) -> dict[tuple[int, ...], float]:
    """The chance of every path, by comparing every position with the end of ``tokens``."""
    end = len(tokens)

    def match(position: int) -> int:
        longest = min(16, position)
        return next((m for m in range(longest) if tokens[position - 1 - m] != tokens[end - 1 - m]), longest)

    matches = {position: match(position) for position in range(2, end)}
    pairs = [position for position in reversed(range(2, end)) if matches[position] >= 2][:24]
    sixes = [position for position in reversed(range(2, end)) if matches[position] >= 6][:24]
    found = set(pairs + sixes)
    chances: dict[tuple[int, ...], float] = {}

    def visit(path: tuple[int, ...], chance: float, here: list[int]) -> None:
        deep = len(path)
        if not here or deep >= min(depth, reach * max(matches[position] for position in here)):
            return
        going_on = [position for position in here if position + deep < end]
        following = [tokens[position + deep] for position in going_on]
        weights = [matches[position] + deep for position in going_on]
        once = sum(following.count(token) == 1 for token in set(following))
        for token in set(following):
            own = sum(weight for weight, other in zip(weights, following, strict=True) if other == token)
            chances[(*path, token)] = chance * (own / (sum(weights) + 1.0 + 2.0 * once))
            below = [p for p, other in zip(going_on, following, strict=True) if other == token]
            visit((*path, token), chances[(*path, token)], below)

    visit((), 1.0, sorted(found))
    return chances


def path_to(draft: Draft, node: int) -> tuple[int, ...]:
    path: tuple[int, ...] = ()
    while node >= 0:
        path, node = (draft.tokens[node], *path), draft.parents[node]
    return path


@settings(max_examples=150, deadline=None)
@given(TOKENS, st.integers(1, 8), st.integers(1, 6), st.sampled_from([0.05, 0.25, 0.6]), st.sampled_from([0.5, 2.0]))
def test_tree_is_the_best_there_is(tokens: list[int], nodes: int, depth: int, min_chance: float, reach: float) -> None:
    draft = SuffixDrafter(min_chance=min_chance, reach=reach).propose(
        context_of(tokens), DraftLimit(nodes, depth, "tree")
    )
    chances = naive_chances(tokens, min(nodes, depth), reach)
    best = sorted((chance for chance in chances.values() if chance >= min_chance), reverse=True)[:nodes]
    paths = [path_to(draft, node) for node in range(len(draft))]
    assert len(set(paths)) == len(paths)
    assert [chances[path] for path in paths] == pytest.approx(best)
    assert (draft.expected or 0.0) == pytest.approx(sum(best))


@settings(max_examples=150, deadline=None)
@given(TOKENS, st.integers(1, 8), st.sampled_from([0.05, 0.25]))
def test_chain_follows_the_most_probable_child(tokens: list[int], nodes: int, min_chance: float) -> None:
    draft = SuffixDrafter(min_chance=min_chance).propose(context_of(tokens), DraftLimit(nodes, nodes))
    chances = naive_chances(tokens, nodes, 2.0)
    path: tuple[int, ...] = ()
    while True:
        children = [other for other in chances if other[:-1] == path and len(other) == len(path) + 1]
        best = min(children, key=lambda other: (-chances[other], other), default=None)
        if best is None or chances[best] < min_chance:
            break
        path = best
    assert draft.is_chain
    assert draft.tokens == path
    assert (draft.expected or 0.0) == pytest.approx(sum(chances[path[: i + 1]] for i in range(len(path))))


EDITS = st.lists(st.one_of(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(0, 30)), max_size=8)


@settings(max_examples=150, deadline=None)
@given(EDITS, st.sampled_from(["chain", "tree"]))
def test_history_leaves_no_trace(edits: list[list[int] | int], shape: Shape) -> None:
    """After any additions and truncations a draft is what a fresh drafter proposes."""
    context, drafter = context_of([0, 1, 2, 0, 1], 128), SuffixDrafter(min_chance=0.05)
    for edit in edits:
        if isinstance(edit, int):
            context.truncate(edit)
        else:
            context.append(edit)
        wide = replace(WIDE, shape=shape)
        fresh = SuffixDrafter(min_chance=0.05)
        assert drafter.propose(context, wide) == fresh.propose(context, wide)


def test_another_conversation_and_a_larger_context() -> None:
    drafter = SuffixDrafter()
    story, list_ = [5, 6, 7, 8, 5, 6, 7, 8, 5, 6], [1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2]
    assert drafter.propose(context_of(story, 16), WIDE).tokens[:4] == (7, 8, 5, 6)
    assert drafter.propose(context_of(list_, 64), WIDE).tokens[:2] == (3, 1)
    assert drafter.propose(context_of(story, 16), WIDE).tokens[:4] == (7, 8, 5, 6)


def test_silent_where_nothing_repeats() -> None:
    drafter = SuffixDrafter()
    for length in range(200):
        draft = drafter.propose(context_of(list(range(length)), 256), WIDE)
        assert len(draft) == 0
        assert not draft.expected
    rng = np.random.default_rng(0)
    context = context_of(rng.integers(0, 1000, 3000).tolist())
    assert sum(len(drafter.propose(context_of(context.tokens[:n].tolist()), WIDE)) for n in range(2500, 2600)) < 5


def test_accidents_of_hashing_are_no_matches() -> None:
    """In a full table different pairs share entries; pairs that differ in their first token would match by one."""
    context, drafter = Context(1024, SamplingParams()), SuffixDrafter(min_chance=0.01)
    firsts = np.random.default_rng(0).permutation(100_000)[:512].tolist()
    for token in (token for first in firsts for token in (first + 16, first % 16)):
        context.append([token])
        assert len(drafter.propose(context, WIDE)) == 0


def test_the_latest_occurrences_count() -> None:
    """Of 30 occurrences of a pair the 24 latest speak: 10 for token 5, which came last, 14 for token 4."""
    fours, fives = [[1, 2, 4, 100 + i] for i in range(20)], [[1, 2, 5, 200 + i] for i in range(10)]
    tokens = [token for group in (*fours, *fives) for token in group]
    draft = SuffixDrafter(min_chance=0.01).propose(context_of([*tokens, 1, 2]), DraftLimit(2, 1, "tree"))
    assert draft.tokens == (4, 5)
    assert draft.expected == pytest.approx((14 * 2 + 10 * 2) / (24 * 2 + 1))


def test_long_repetition_fills_the_limit_and_no_more() -> None:
    rng = np.random.default_rng(1)
    text = rng.integers(0, 10_000, 200).tolist()
    drafter = SuffixDrafter()
    for nodes, depth in [(7, 7), (7, 3), (2, 9), (1, 1)]:
        draft = drafter.propose(context_of(text + text[:50]), DraftLimit(nodes, depth))
        assert draft.tokens == tuple(text[50 : 50 + min(nodes, depth)])
    assert len(drafter.propose(context_of(text + text[:50]), DraftLimit(0, 0))) == 0
    assert len(drafter.propose(context_of(text + text[:50]), DraftLimit(5, 0))) == 0


def test_depth_is_bounded_by_the_match() -> None:
    text = list(range(100, 200))
    context = context_of([*text * 6, 1, 2, *text[10:12]])  # a pair matches, six times over
    for reach in (0.5, 1.0, 2.0):
        draft = SuffixDrafter(reach=reach, min_chance=0.01).propose(context, DraftLimit(16, 16))
        assert len(draft) == math.ceil(2 * reach)


def test_a_long_match_is_found_among_many_short_ones() -> None:
    """The pair (1, 2) goes on with 9 in its last hundred occurrences, but not after these six tokens."""
    phrase = [50, 51, 52, 53, 1, 2]
    context = context_of([*phrase, 7, 60, *[1, 2, 9] * 100, *phrase])
    draft = SuffixDrafter(min_chance=0.01).propose(context, DraftLimit(4, 1, "tree"))
    assert set(draft.tokens) == {7, 9}


@pytest.mark.parametrize("capacity", [1000, 4096, 4097, 100_000])
def test_memory_is_as_stated(capacity: int) -> None:
    drafter = SuffixDrafter()
    context = context_of([1, 2, 3] * 300, capacity)
    drafter.propose(context, WIDE)
    assert drafter.nbytes <= BYTES_PER_TOKEN * capacity + 128
    before = drafter.nbytes
    context.append([7] * 50)
    drafter.propose(context, WIDE)
    assert drafter.nbytes == before
