"""The law of drafts that stop early, by enumeration: the token that made them stop must stay in them."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.decoding.acceptance.block import BlockVerifier
from runtime.decoding.acceptance.recursive import RecursiveVerifier
from runtime.decoding.acceptance.sample_and_match import MatchVerifier
from runtime.decoding.draft import Draft, DraftLimit, make_chain
from runtime.decoding.protocols import Drafter, Verifier
from runtime.decoding.sampling import SamplingParams
from runtime.drafters.draft_model import DraftModelDrafter
from runtime.drafters.prediction_head import PredictionHeadDrafter
from tests.runtime.decoding.acceptance.enumerated_step import VOCAB, step_distance
from tests.runtime.decoding.acceptance.enumeration import EXACT
from tests.runtime.drafters.heads import TableHead, TableReader
from tests.runtime.table_model import TableModel

PARAMS = SamplingParams(temperature=3.0)
RULES: dict[str, Verifier] = {"match": MatchVerifier(), "block": BlockVerifier(), "recursive": RecursiveVerifier()}
LIMITS = {"chain": DraftLimit(3, 3, floor=0.3), "tree": DraftLimit(6, 3, "tree", floor=0.2)}


def _drafter(drawn: bool) -> DraftModelDrafter:
    drafter = DraftModelDrafter(TableModel(VOCAB, seed=40), VOCAB, drawn=drawn)
    drafter.calibration = lambda raw: raw**0.9
    return drafter


def _distance(patch: pytest.MonkeyPatch, drafter: Drafter, limit: DraftLimit, rule: str) -> float:
    return step_distance(patch, TableModel(VOCAB, seed=7), drafter, limit, RULES[rule], PARAMS)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("drawn", [True, False], ids=["drawn", "chosen"])
def test_trees_of_heads_keep_the_targets_law(monkeypatch: pytest.MonkeyPatch, rule: str, drawn: bool) -> None:
    reader: Any = TableReader(TableHead(VOCAB, seed=40))
    drafter = PredictionHeadDrafter(reader, VOCAB, drawn=drawn)
    drafter.calibration = lambda raw: raw**0.9
    assert _distance(monkeypatch, drafter, LIMITS["tree"], rule) < EXACT


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", LIMITS)
@pytest.mark.parametrize("drawn", [True, False], ids=["drawn", "chosen"])
def test_drafts_that_stop_early_keep_the_targets_law(
    monkeypatch: pytest.MonkeyPatch, rule: str, shape: str, drawn: bool
) -> None:
    assert _distance(monkeypatch, _drafter(drawn), LIMITS[shape], rule) < EXACT


class Dropping:
    """Throws away the token that ended the draft."""

    def __init__(self, drafter: Drafter) -> None:
        self.name, self._drafter = "dropping", drafter

    def propose(self, context, limit: DraftLimit) -> Draft:
        draft = self._drafter.propose(context, limit)
        kept = len(draft) - (len(draft) < limit.depth)
        probs = {node: row for node, row in draft.probs.items() if node < kept - 1}
        return make_chain(draft.tokens[:kept], kind=draft.kind, probs=probs)


@pytest.mark.parametrize("rule", ["block", "recursive"])
def test_without_the_token_that_ended_them_they_would_not(monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    assert _distance(monkeypatch, Dropping(_drafter(drawn=True)), LIMITS["chain"], rule) > 0.05
