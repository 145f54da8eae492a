"""Drafters with logits of a part of the vocabulary: their drafts, the target's law, and the constraints of answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from export.manifest import ParallelDrafts
from runtime.decoding.acceptance.block import BlockVerifier
from runtime.decoding.acceptance.recursive import RecursiveVerifier
from runtime.decoding.acceptance.sample_and_match import MatchVerifier
from runtime.decoding.draft import DraftLimit, chain_limit
from runtime.decoding.protocols import Drafter, ModelOutput, Verifier
from runtime.decoding.sampling import SamplingParams
from runtime.drafters.draft_model import DraftModelDrafter
from runtime.drafters.parallel import ParallelDrafter
from tests.runtime.decoding.acceptance.enumerated_step import VOCAB, step_distance
from tests.runtime.decoding.acceptance.enumeration import EXACT
from tests.runtime.decoding.language import Language
from tests.runtime.levels import context_of, text_of
from tests.runtime.table_model import TableModel

KEPT = np.array([0, 2, 3, 7, 10])
TOKENS = [3, 1, 4, 1, 5, 9, 2]
GREEDY, SAMPLED = SamplingParams(), SamplingParams(temperature=0.9, seed=3)
SETTINGS = {
    "greedy": GREEDY,
    "sampled": SAMPLED,
    "penalized": SamplingParams(temperature=0.9, repetition_penalty=1.7, seed=3),
    "greedy, penalized": SamplingParams(repetition_penalty=2.5),
    "filtered": SamplingParams(temperature=1.2, top_k=3, top_p=0.9, seed=5),
}
LIMITS = {"chain": DraftLimit(4, 4, floor=1e-6), "tree": DraftLimit(6, 3, "tree", floor=1e-6)}
RULES: dict[str, Verifier] = {"match": MatchVerifier(), "block": BlockVerifier(), "recursive": RecursiveVerifier()}


class Cut(TableModel):
    """Gives the logits of the ``kept`` tokens alone, or minus infinity for the others."""

    def __init__(self, kept: Sequence[int], whole: bool = False, **sizes: int) -> None:
        super().__init__(**sizes)
        self._kept, self._whole = kept, whole

    def forward(self, tokens, parents=None, logits_from=0) -> ModelOutput:
        logits = super().forward(tokens, parents, logits_from).logits
        if not self._whole:
            return ModelOutput(logits[:, self._kept])
        hidden = np.full_like(logits, -np.inf)
        hidden[:, self._kept] = logits[:, self._kept]
        return ModelOutput(hidden)


def _model(model: TableModel, vocab: int, drawn: bool, tokens: np.ndarray | None) -> Drafter:
    return DraftModelDrafter(model, vocab, "small", drawn, tokens=tokens)


def _parallel(model: TableModel, vocab: int, drawn: bool, tokens: np.ndarray | None) -> Drafter:
    return ParallelDrafter(model, ParallelDrafts(vocab - 1, 5), vocab, "small", drawn, tokens)


MAKERS: dict[str, Callable[..., Drafter]] = {"model": _model, "parallel": _parallel}


@pytest.mark.parametrize("params", SETTINGS)
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("drawn", [False, True], ids=["chosen", "drawn"])
def test_drafts_are_those_of_a_model_that_gives_the_others_no_chance(
    make: str, limit: str, params: str, drawn: bool
) -> None:
    cut, whole = (
        MAKERS[make](Cut(KEPT, whole=tokens is None), 11, drawn, tokens).propose(
            context_of(TOKENS, SETTINGS[params]), LIMITS[limit]
        )
        for tokens in (KEPT, None)
    )
    assert (cut.tokens, cut.parents, cut.kind) == (whole.tokens, whole.parents, whole.kind)
    assert cut.chances == pytest.approx(whole.chances, abs=1e-6)
    assert set(cut.tokens) <= set(KEPT.tolist())
    assert cut.probs.keys() == whole.probs.keys()
    for node, row in cut.probs.items():
        np.testing.assert_allclose(row, whole.probs[node], atol=1e-6)
        assert not np.delete(row, KEPT).any()


def test_tokens_that_the_target_lacks_are_never_proposed() -> None:
    for drawn in (False, True):
        draft = _model(Cut(KEPT), 8, drawn, KEPT).propose(context_of([3, 1, 4], SAMPLED), chain_limit(6))
        assert max(draft.tokens) < 8
        assert all(len(row) == 8 for row in draft.probs.values())


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("make", MAKERS)
def test_text_is_the_targets(make: str, params: SamplingParams) -> None:
    plain = text_of(TableModel(), context_of(TOKENS, params), None, chain_limit(0))
    drafter = MAKERS[make](Cut(KEPT), 11, False, KEPT)
    assert set(plain) - set(KEPT.tolist()), "the text has tokens that are never drafted"
    assert text_of(TableModel(), context_of(TOKENS, params), drafter, chain_limit(5)) == plain


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("limit", [DraftLimit(3, 3), DraftLimit(4, 2, "tree")], ids=["chain", "tree"])
def test_a_step_has_the_targets_law(monkeypatch: pytest.MonkeyPatch, make: str, rule: str, limit: DraftLimit) -> None:
    kept = np.array([0, 2])
    drafter = MAKERS[make](Cut(kept, vocab_size=VOCAB, seed=40), VOCAB, rule != "match", kept)
    params = SamplingParams(temperature=3.0)
    assert step_distance(monkeypatch, TableModel(VOCAB, seed=7), drafter, limit, RULES[rule], params) < EXACT


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_what_a_constraint_allows_is_drafted_if_it_has_logits(params: SamplingParams) -> None:
    for seed in range(8):
        language = Language(11, seed)
        context = context_of(TOKENS, params)
        context.constraint = language.fork()
        draft = _model(Cut(KEPT), 11, False, KEPT).propose(context, chain_limit(4))
        for place, token in enumerate(draft.tokens):
            allowed = set(language.after(draft.tokens[:place]))
            assert token in allowed or not allowed & set(KEPT.tolist())
            if token not in allowed:  # what follows will not stand
                break


def test_a_review_speaks_of_the_targets_tokens() -> None:
    guessed = DraftModelDrafter(Cut(KEPT), 11, tokens=KEPT).propose(context_of([2, 7], GREEDY), chain_limit(5)).tokens
    context = context_of([2, 7, *guessed, 7, 3], GREEDY)
    cut = DraftModelDrafter(Cut(KEPT), 11, tokens=KEPT).propose(context, chain_limit(2)).reviewed
    whole = DraftModelDrafter(Cut(KEPT, whole=True), 11).propose(context, chain_limit(2)).reviewed
    assert cut == whole
    assert all(whole[1 : 1 + len(guessed)])
