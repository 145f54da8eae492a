"""The law under a constraint, by enumeration: the target's distribution, masked, then filtered."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from runtime.decoding.acceptance.block import BlockVerifier
from runtime.decoding.acceptance.recursive import RecursiveVerifier
from runtime.decoding.acceptance.sample_and_match import MatchVerifier
from runtime.decoding.draft import Draft, DraftLimit, chain_limit
from runtime.decoding.protocols import Drafter, Verifier
from runtime.decoding.sampling import SamplingParams, probabilities
from runtime.drafters.draft_model import DraftModelDrafter
from runtime.drafters.forced import ForcedDrafter
from runtime.drafters.hierarchy import HierarchyDrafter
from tests.runtime.decoding.acceptance.enumerated_step import PROMPT, VOCAB, ModelLaw, step_distance
from tests.runtime.decoding.acceptance.enumeration import EXACT, Tokens
from tests.runtime.decoding.language import Language
from tests.runtime.table_model import TableModel

RULES: dict[str, Verifier] = {"match": MatchVerifier(), "block": BlockVerifier(), "recursive": RecursiveVerifier()}
# Filters see what the mask leaves: with two of three tokens allowed, top_p keeps other ones than without a mask.
# Each with a language.
PARAMS = {"whole": (SamplingParams(temperature=3.0), 1), "filtered": (SamplingParams(temperature=2.0, top_p=0.8), 4)}
INNER = chain_limit(2)
LIMITS = {
    "chain": chain_limit(3),
    "tree": DraftLimit(5, 3, "tree"),
    "hierarchy": chain_limit(3, INNER),
    "forced": chain_limit(3),
}


class MaskedLaw(ModelLaw):
    """What a model says after the prompt and a prefix, among the tokens of a language."""

    def __init__(self, model: TableModel, params: SamplingParams, language: Language) -> None:
        super().__init__(model, params)
        self._language = language

    def __call__(self, prefix: Tokens) -> np.ndarray:
        if prefix not in self._rows:
            tokens = [*PROMPT, *prefix]
            fresh = TableModel(self.vocab, len(tokens) + 1, seed=self._model.seed)
            fresh.prefill(tokens[:-1])
            logits, allowed = fresh.forward(tokens[-1:]).logits[0].copy(), self._language.after(prefix)
            logits[[token for token in range(self.vocab) if token not in allowed]] = -np.inf
            row = probabilities(logits, tokens, self._params).astype(np.float64)
            self._rows[prefix] = row / row.sum()
        return self._rows[prefix]


def _drafter(kind: str, drawn: bool) -> Drafter:
    small = DraftModelDrafter(TableModel(VOCAB, seed=40), VOCAB, drawn=drawn)
    if kind == "forced":
        return ForcedDrafter()
    return HierarchyDrafter(small, TableModel(VOCAB, seed=41), VOCAB, drawn=drawn) if kind == "hierarchy" else small


def _distance(patch: pytest.MonkeyPatch, drafter: Drafter, limit: DraftLimit, rule: str, params: str) -> float:
    sampling, seed = PARAMS[params]
    target, language = TableModel(VOCAB, seed=7), Language(VOCAB, seed)
    law = MaskedLaw(target, sampling, language)
    return step_distance(patch, target, drafter, limit, RULES[rule], sampling, language, law)


def _settings(kind: str) -> Iterator[object]:
    """Filters change what a row leaves, not how drafts are judged: in short, chains and trees have them."""
    yield pytest.param(kind, "whole", id=f"{kind}-whole")
    yield pytest.param(
        kind, "filtered", id=f"{kind}-filtered", marks=() if kind in ("chain", "tree") else pytest.mark.slow
    )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("kind", "params"), [each for kind in LIMITS for each in _settings(kind)])
@pytest.mark.parametrize("drawn", [True, False], ids=["drawn", "chosen"])
def test_a_step_has_the_masked_law(
    monkeypatch: pytest.MonkeyPatch, kind: str, rule: str, drawn: bool, params: str
) -> None:
    assert _distance(monkeypatch, _drafter(kind, drawn), LIMITS[kind], rule, params) < EXACT


class Unmasked:
    """A drafter that draws without looking at the constraint, but says from what."""

    def __init__(self, drafter: Drafter) -> None:
        self.name, self._drafter = drafter.name, drafter

    def propose(self, context, limit: DraftLimit) -> Draft:
        constraint, context.constraint = context.constraint, None
        try:
            return self._drafter.propose(context, limit)
        finally:
            context.constraint = constraint


@pytest.mark.parametrize("rule", RULES)
def test_a_drafter_that_ignores_the_constraint_is_still_judged_exactly(
    monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    for drawn in (True, False):
        drafter = Unmasked(_drafter("chain", drawn))
        assert _distance(monkeypatch, drafter, LIMITS["chain"], rule, "whole") < EXACT
