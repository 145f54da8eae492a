"""How sure the small drafter says it is, and that it stops where another token is not worth it."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest

from memory.plan import Shape
from runtime.decoding.acceptance.recursive import RecursiveVerifier
from runtime.decoding.acceptance.sample_and_match import MatchVerifier
from runtime.decoding.draft import Draft, DraftLimit, DrawKind
from runtime.decoding.sampling import SamplingParams
from runtime.drafters import vocabulary
from runtime.drafters.draft_model import DraftModelDrafter
from tests.runtime.levels import context_of, decoded, law_pvalue, probs_of, text_of
from tests.runtime.table_model import TableModel

GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.9, top_k=6, repetition_penalty=1.2, seed=3)
TOKENS = [3, 1, 4, 1, 5, 9, 2]
WAYS = {
    "greedy chain": (GREEDY, "chain", False),
    "matched chain": (SAMPLED, "chain", False),
    "drawn chain": (SAMPLED, "chain", True),
    "greedy tree": (GREEDY, "tree", False),
    "scored tree": (SAMPLED, "tree", False),
    "drawn tree": (SAMPLED, "tree", True),
}


def _propose(params: SamplingParams, limit: DraftLimit, drawn: bool = False, calibration=None) -> Draft:
    drafter = DraftModelDrafter(TableModel(), 11, drawn=drawn)
    drafter.calibration = calibration or drafter.calibration
    return drafter.propose(context_of(TOKENS, params), limit)


def _paths(draft: Draft) -> list[list[int]]:
    """The nodes from the first one down to each node."""
    paths: list[list[int]] = []
    for node, parent in enumerate(draft.parents):
        paths.append([*(paths[parent] if parent >= 0 else []), node])
    return paths


@pytest.mark.parametrize("way", WAYS)
def test_chances_are_the_drafters_own_probabilities(way: str) -> None:
    params, shape, drawn = WAYS[way]
    draft = _propose(params, DraftLimit(6, 4, shape, floor=1e-9), drawn)
    scored = params if params.temperature else replace(params, temperature=1.0)
    for path, chance in zip(_paths(draft), draft.chances, strict=True):
        before = [*TOKENS, *(draft.tokens[node] for node in path[:-1])]
        assert chance == pytest.approx(probs_of(TableModel(), before, scored)[draft.tokens[path[-1]]], abs=1e-6)


def test_a_greedy_chain_without_a_floor_looks_at_no_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "allowed_distribution", None)
    draft = _propose(GREEDY, DraftLimit(4, 4))
    assert (len(draft), draft.chances) == (4, ())


@pytest.mark.parametrize("way", ["greedy chain", "matched chain", "drawn chain"])
@pytest.mark.parametrize("calibrated", [lambda raw: raw, lambda raw: raw / 2], ids=["as it is", "halved"])
def test_a_chain_keeps_the_token_that_ends_it(way: str, calibrated) -> None:
    params, _, drawn = WAYS[way]
    whole = _propose(params, DraftLimit(8, 8, floor=1e-30), drawn)
    lengths = set()
    for floor in (0.001, 0.01, 0.05, 0.2, 0.5, 0.9, 0.999):
        draft = _propose(params, DraftLimit(8, 8, floor=floor), drawn, calibrated)
        assert draft.tokens == whole.tokens[: len(draft)]
        survivals = [prod(map(calibrated, whole.chances[: length + 1])) for length in range(8)]
        worth = [survival ** (1 + 1 / (n + 1)) >= floor for n, survival in enumerate(survivals)]
        assert len(draft) == next((n + 1 for n in range(8) if not worth[n]), 8)
        lengths.add(len(draft))
    assert len(lengths) > 1
    assert 1 in lengths


@pytest.mark.parametrize("calibrated", [lambda raw: raw, lambda raw: raw**2], ids=["as it is", "squared"])
@pytest.mark.parametrize("way", ["greedy tree", "scored tree"])
def test_a_tree_has_no_node_below_the_floor_and_every_one_above(way: str, calibrated) -> None:
    params, limit, sizes = WAYS[way][0], DraftLimit(11, 3, "tree", floor=0.01), set()
    whole = _propose(params, limit, calibration=calibrated)
    paths, scores = {}, {}
    for path in _paths(whole):
        paths[path[-1]] = tuple(whole.tokens[node] for node in path)
        scores[paths[path[-1]]] = prod(calibrated(whole.chances[node]) for node in path)
    assert min(scores.values()) >= 0.01
    for floor in (0.02, 0.05, 0.1, 0.3, 1.0):
        draft = _propose(params, replace(limit, floor=floor), calibration=calibrated)
        kept = {tuple(draft.tokens[node] for node in path) for path in _paths(draft)}
        assert kept == {path for path, score in scores.items() if score >= floor}
        assert draft.expected == pytest.approx(sum(scores[path] for path in kept))
        sizes.add(len(draft))
    assert len(sizes) > 2


def test_each_branch_of_a_drawn_tree_ends_by_itself() -> None:
    ends = set()
    for seed in range(12):
        params = replace(SAMPLED, seed=seed)
        draft = _propose(params, DraftLimit(8, 4, "tree", floor=0.1), drawn=True)
        assert draft.kind is DrawKind.WITHOUT_REPLACEMENT
        for path in _paths(draft):
            survival = prod(draft.chances[node] for node in path)
            worth = survival ** (1 + 1 / len(path)) >= 0.1
            assert bool(draft.children(path[-1])) == (worth and len(path) < 4)
        ends.add(tuple(sorted(len(path) for path in _paths(draft) if not draft.children(path[-1]))))
    assert len(ends) > 2


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("floor", [0.03, 0.3])
def test_text_stays_as_it_is(way: str, floor: float) -> None:
    params, shape, drawn = WAYS[way]
    limit = DraftLimit(6, 4, shape, floor)
    plain = text_of(TableModel(), context_of(TOKENS, params), None, limit)
    drafter = DraftModelDrafter(TableModel(seed=1), 11, drawn=drawn)
    steps = list(decoded(TableModel(), context_of(TOKENS, params), drafter, limit, MatchVerifier()))
    assert [token for step in steps for token in step.tokens] == plain
    # What the scheduler learns from: the path that stood and, if there was one, the guess that did not.
    assert any(step.chances for step in steps)
    assert all(step.num_accepted <= len(step.chances) <= step.num_accepted + 1 for step in steps)


@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_drawn_drafts_that_stop_early_keep_the_law(shape: Shape) -> None:
    drafter = DraftModelDrafter(TableModel(3, seed=4), 3, drawn=True)
    limit = DraftLimit(6, 3, shape, floor=0.3)
    assert law_pvalue(TableModel(3, seed=2), drafter, limit, RecursiveVerifier(), runs=800) > 1e-3
