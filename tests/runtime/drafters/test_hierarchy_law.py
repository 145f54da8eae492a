"""The law of a hierarchy under sampling, by enumeration of the very code that runs in production.

Enumeration takes the random decisions to be independent; that they are is shown apart: no two share a random number.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product

import pytest

import runtime.decoding.acceptance.coins as coins
import runtime.decoding.acceptance.sample_and_match as match
import runtime.drafters.chain as chains
import runtime.drafters.draft_tree as trees
from runtime.decoding import sampling
from runtime.decoding.acceptance.block import BlockVerifier
from runtime.decoding.acceptance.recursive import RecursiveVerifier
from runtime.decoding.acceptance.sample_and_match import MatchVerifier
from runtime.decoding.draft import Draft, DraftLimit, DrawKind, chain_limit
from runtime.decoding.protocols import Drafter, Verifier
from runtime.decoding.sampling import SamplingParams
from runtime.drafters.draft_model import DraftModelDrafter
from runtime.drafters.hierarchy import HierarchyDrafter
from tests.runtime.decoding.acceptance.enumerated_step import VOCAB, ModelLaw, step_distance
from tests.runtime.decoding.acceptance.enumeration import EXACT
from tests.runtime.levels import context_of, decoded, law_pvalue, stack
from tests.runtime.table_model import TableModel

# Two of three tokens are possible, and which two differs by level: filters matter.
FILTERED, WHOLE = SamplingParams(temperature=2.0, top_k=2), SamplingParams(temperature=3.0)
OUTER: dict[str, Verifier] = {"match": MatchVerifier(), "block": BlockVerifier(), "recursive": RecursiveVerifier()}
# What the lowest drafter is asked for, and whether it draws: the rule that judges it follows from that.
INNER = {
    "block": (chain_limit(2), True),
    "one-hot": (chain_limit(2), False),
    "tree": (DraftLimit(4, 2, "tree"), True),
    "one-hot tree": (DraftLimit(3, 2, "tree"), False),
}

# Every rule inside and every rule outside; all pairs of them are slow.
FEW = [("block", "match"), ("one-hot", "block"), ("tree", "recursive"), ("one-hot tree", "block")]
MIXED = [*FEW, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in product(INNER, OUTER) if pair not in FEW)]


def _model(seed: int) -> TableModel:
    return TableModel(VOCAB, seed=seed)


def _hierarchy(levels: int, drawn: bool) -> HierarchyDrafter:
    """The lowest drafter, which may or may not draw, and intermediates that do."""
    drafter: Drafter = DraftModelDrafter(_model(40), VOCAB, drawn=drawn)
    for level in range(1, levels):
        drafter = HierarchyDrafter(drafter, _model(40 + level), VOCAB, f"level{level}", drawn=True)
    assert isinstance(drafter, HierarchyDrafter)
    return drafter


@pytest.mark.parametrize(("inner", "outer"), MIXED)
def test_one_inner_step_of_any_length_keeps_the_targets_law(
    monkeypatch: pytest.MonkeyPatch, inner: str, outer: str
) -> None:
    below, drawn = INNER[inner]
    limit = chain_limit(below.depth + 1, below)
    assert step_distance(monkeypatch, _model(7), _hierarchy(2, drawn), limit, OUTER[outer], WHOLE) < EXACT


@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("inner", INNER)
def test_inner_steps_until_the_draft_is_long_enough_keep_the_targets_law(
    monkeypatch: pytest.MonkeyPatch, inner: str, outer: str
) -> None:
    below, drawn = INNER[inner]
    limit = chain_limit(below.depth + 2, below)
    assert step_distance(monkeypatch, _model(7), _hierarchy(2, drawn), limit, OUTER[outer], FILTERED) < EXACT


@pytest.mark.parametrize("inner", INNER)
def test_four_levels_keep_the_targets_law(monkeypatch: pytest.MonkeyPatch, inner: str) -> None:
    below, drawn = INNER[inner]
    limit = chain_limit(3, chain_limit(2, below.within(2, 1)))
    assert step_distance(monkeypatch, _model(7), _hierarchy(3, drawn), limit, BlockVerifier(), FILTERED) < EXACT


class Mistaken:
    """A hierarchy that passes off the lowest drafter's distributions for its own."""

    def __init__(self, drafter: HierarchyDrafter, params: SamplingParams) -> None:
        self.name, self._drafter, self._law = drafter.name, drafter, ModelLaw(_model(40), params)

    def propose(self, context, limit: DraftLimit) -> Draft:
        draft = self._drafter.propose(context, limit)
        assert draft.kind is DrawKind.INDEPENDENT
        return replace(draft, probs={node - 1: self._law(draft.tokens[:node]) for node in range(len(draft))})


@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        ("block", "recursive"),
        ("one-hot tree", "block"),
        *(pytest.param(inner, outer, marks=pytest.mark.slow) for inner in INNER for outer in ("block", "recursive")),
    ],
)
def test_the_lowest_drafters_distributions_would_not(monkeypatch: pytest.MonkeyPatch, inner: str, outer: str) -> None:
    below, drawn = INNER[inner]
    drafter, limit = Mistaken(_hierarchy(2, drawn), WHOLE), chain_limit(below.depth + 1, below)
    assert step_distance(monkeypatch, _model(7), drafter, limit, OUTER[outer], WHOLE) > 0.05


@pytest.mark.parametrize("levels", [2, 3, 4])
@pytest.mark.parametrize("innermost", [chain_limit(2), DraftLimit(4, 2, "tree")], ids=["chain", "tree"])
@pytest.mark.parametrize("outer", ["match", "block"])
def test_no_random_number_decides_twice(
    monkeypatch: pytest.MonkeyPatch, levels: int, innermost: DraftLimit, outer: str
) -> None:
    """Not even in another step: a block that is judged as a whole lets late guesses decide about early ones."""
    used: Counter[tuple[int, ...]] = Counter()

    def noted(seed, position, stream=sampling.RandomStream.TARGET, index=0, uniform=sampling.uniform) -> float:
        used[seed, position, stream, index] += 1
        return uniform(seed, position, stream, index)

    for module in (chains, trees, match, coins, sampling):
        monkeypatch.setattr(module, "uniform", noted)
    limit = chain_limit(5, innermost)
    for _ in range(levels - 2):
        limit = chain_limit(5, replace(limit, nodes=3, depth=3))
    drafter = stack(*(TableModel(seed=each) for each in range(levels)), drawn=True)
    context = context_of([1, 2], SamplingParams(temperature=1.0, seed=1))
    steps = list(decoded(TableModel(seed=9), context, drafter, limit, OUTER[outer]))
    assert len(steps) > 8
    assert len(used) > 100
    assert set(used.values()) == {1}


@pytest.mark.parametrize(
    ("levels", "outer"),
    [
        (2, "match"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((2, "block"), (2, "recursive"))),
        (3, "block"),
    ],
)
def test_the_first_three_tokens_have_the_law_of_the_target(levels: int, outer: str) -> None:
    drafter = stack(*(TableModel(VOCAB, seed=4 + each) for each in range(levels)), drawn=True, vocab_size=VOCAB)
    limit = chain_limit(3, chain_limit(2, chain_limit(2)))
    assert law_pvalue(TableModel(VOCAB, seed=2), drafter, limit, OUTER[outer], runs=800) > 1e-3
