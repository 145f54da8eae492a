"""The laws of decoding under a constraint: drafts change no token, and logits are masked before anything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.decoding import loop as loop_module
from runtime.decoding.acceptance.block import BlockVerifier
from runtime.decoding.acceptance.greedy import GreedyVerifier
from runtime.decoding.acceptance.recursive import RecursiveVerifier
from runtime.decoding.acceptance.sample_and_match import MatchVerifier
from runtime.decoding.constrained import EndingWith, allowed_logits, allowed_part
from runtime.decoding.constraint import Constraint
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DraftLimit, DrawKind, Pick, Step, Verdict, chain_limit
from runtime.decoding.loop import Loop, decode
from runtime.decoding.protocols import Drafter, Verifier
from runtime.decoding.sampling import SamplingParams, draw, greedy_token, probabilities, uniform
from runtime.drafters.draft_model import DraftModelDrafter
from runtime.drafters.fallback import FallbackDrafter
from runtime.drafters.forced import ForcedDrafter
from runtime.drafters.hierarchy import HierarchyDrafter
from runtime.drafters.overlapped import OverlappedDrafter
from runtime.drafters.suffix import SuffixDrafter
from runtime.scheduler.fixed import FixedScheduler
from tests.runtime.decoding.language import Language
from tests.runtime.decoding.test_loop import Ends
from tests.runtime.drafters.guesses import Raising, Random
from tests.runtime.table_model import TableModel

PROMPT = [3, 1, 4, 1, 5]
GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.8, top_k=6, top_p=0.95, repetition_penalty=1.2, seed=7)
VOCAB, END = 11, 9


@given(
    size=st.sampled_from([1, 7, 8, 300, 32768, 32769, 70001]),
    known=st.sampled_from([-9, 0, 3]),
    density=st.sampled_from([0.0005, 0.5, 1.0]),
)
def test_masked_logits_are_those_allowed_and_minus_infinity(size: int, known: int, density: float) -> None:
    rng = np.random.default_rng(size)
    logits = rng.standard_normal(size).astype(np.float32)
    allowed = rng.random(max(1, size + known)) < density
    allowed[0] = True
    context = Context(4, GREEDY)

    class Fixed(Language):
        def mask(self, path: Sequence[int] = ()) -> np.ndarray:
            return np.packbits(allowed, bitorder="little")

    context.constraint = Fixed(size)
    kept = np.zeros(size, np.bool_)
    kept[: len(allowed)] = allowed[:size]
    assert kept.any()
    before = logits.copy()
    np.testing.assert_array_equal(allowed_logits(logits, context, ()), np.where(kept, logits, -np.inf))
    np.testing.assert_array_equal(logits, before)


def test_without_a_constraint_logits_are_not_even_copied() -> None:
    logits = np.zeros(5, np.float32)
    assert allowed_logits(logits, Context(4, GREEDY), ()) is logits


def plain(model: TableModel, language: Language, sampling: SamplingParams, count: int) -> list[int]:
    """The answer, one token at a time, without any of the code that drafts, masks or verifies."""
    tokens, answer = list(PROMPT), list[int]()
    while len(answer) < count and END not in answer:
        fresh = TableModel(model.vocab_size, len(tokens) + 1, seed=model.seed)
        fresh.prefill(tokens[:-1])
        allowed = language.after(tuple(answer))
        logits = np.array(
            [
                logit if token in allowed else -np.inf
                for token, logit in enumerate(fresh.forward(tokens[-1:]).logits[0])
            ],
            np.float32,
        )
        if sampling.temperature == 0:
            token = greedy_token(logits, tokens, sampling)
        else:
            token = draw(probabilities(logits, tokens, sampling), uniform(sampling.seed, len(tokens)))
        tokens.append(token)
        answer.append(token)
    return answer


def _model(seed: int) -> TableModel:
    return TableModel(VOCAB, seed=seed)


def _hierarchy(lower: Drafter, drawn: bool = False) -> HierarchyDrafter:
    return HierarchyDrafter(lower, _model(2), VOCAB, drawn=drawn)


DRAFTERS: dict[str, Callable[[bool], Drafter]] = {
    "grammar": lambda drawn: ForcedDrafter(),
    "suffix": lambda drawn: SuffixDrafter(min_chance=0.01),
    "random": lambda drawn: Random(VOCAB),
    "same model": lambda drawn: DraftModelDrafter(_model(0), VOCAB, drawn=drawn),
    "other model": lambda drawn: DraftModelDrafter(_model(1), VOCAB, drawn=drawn),
    "smaller vocabulary": lambda drawn: DraftModelDrafter(TableModel(VOCAB - 1, seed=0), VOCAB, drawn=drawn),
    "hierarchy": lambda drawn: _hierarchy(DraftModelDrafter(_model(1), VOCAB, drawn=drawn), drawn),
    "suffix below": lambda drawn: _hierarchy(SuffixDrafter(min_chance=0.01), drawn),
    "fallback": lambda drawn: FallbackDrafter([SuffixDrafter(), DraftModelDrafter(_model(0), VOCAB, drawn=drawn)]),
    "ahead": lambda drawn: OverlappedDrafter(DraftModelDrafter(_model(0), VOCAB, drawn=drawn)),
    "ahead suffix": lambda drawn: OverlappedDrafter(SuffixDrafter(min_chance=0.01)),
}
RULES: dict[str, Callable[[], Verifier]] = {"block": BlockVerifier, "recursive": RecursiveVerifier}


def decoded(
    language: Language, drafter: Drafter, limit: DraftLimit, rule: Verifier, sampling: SamplingParams
) -> list[Step]:
    context, constraint = Context(80, sampling), language.fork()
    context.hold(PROMPT)
    context.constraint = constraint
    stop, scheduler = EndingWith(Ends(24), constraint), FixedScheduler(drafter.name, limit)
    steps = list(decode(_model(0), context, {drafter.name: drafter}, scheduler, rule, stop))
    assert constraint.prefix == tuple(token for step in steps for token in step.tokens)
    return steps


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", DRAFTERS)
def test_constrained_speculative_text_is_constrained_plain_text(name: str, sampling: SamplingParams) -> None:
    rule = GreedyVerifier() if sampling is GREEDY else MatchVerifier()
    accepted = 0
    for seed in range(3):
        language = Language(VOCAB, seed, END)
        expected = plain(_model(0), language, sampling, 24)
        for limit in (chain_limit(4), DraftLimit(6, 3, "tree")):
            if limit.shape == "tree" and ("ahead" in name or name in ("hierarchy", "suffix below")):
                continue
            steps = decoded(language, DRAFTERS[name](False), limit, rule, sampling)
            assert [token for step in steps for token in step.tokens] == expected
            assert steps[-1].finish == ("eos" if expected[-1] == END else "length")
            accepted += sum(step.num_accepted for step in steps)
    assert accepted or "suffix" in name or name == "random"


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", DRAFTERS)
def test_rules_that_use_distributions_stay_in_the_language(name: str, rule: str) -> None:
    for seed in range(2):
        language = Language(VOCAB, seed, END)
        steps = decoded(language, DRAFTERS[name](True), chain_limit(4), RULES[rule](), replace(SAMPLED, seed=seed))
        tokens = [token for step in steps for token in step.tokens]
        assert language.count_allowed(tokens) == len(tokens)


def assert_may_stand(draft: Draft, context: Context) -> None:
    """Every node of ``draft`` is allowed behind those above it."""
    paths: dict[int, list[int]] = {-1: []}
    for node, (token, parent) in enumerate(zip(draft.tokens, draft.parents, strict=True)):
        paths[node] = [*paths[parent], token]
        assert context.constraint is not None
        assert context.constraint.count_allowed(paths[node]) == len(paths[node])


class Checked:
    """A drafter whose drafts are all allowed, before anyone cuts them."""

    def __init__(self, drafter: Drafter) -> None:
        self.name, self._drafter = drafter.name, drafter

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        draft = self._drafter.propose(context, limit)
        assert_may_stand(draft, context)
        return draft


class CheckingVerifier(MatchVerifier):
    def accept(self, draft: Draft, logits: np.ndarray, context: Context) -> Verdict:
        assert_may_stand(draft, context)
        return super().accept(draft, logits, context)


@pytest.mark.parametrize("name", DRAFTERS)
def test_nothing_is_verified_that_cannot_stand(name: str) -> None:
    assert decoded(Language(VOCAB, 3, END), DRAFTERS[name](False), chain_limit(5), CheckingVerifier(), SAMPLED)


def test_nothing_is_judged_by_an_intermediate_that_cannot_stand() -> None:
    for seed in range(3):
        drafter = HierarchyDrafter(Random(VOCAB), _model(2), VOCAB, rule=CheckingVerifier())
        assert decoded(Language(VOCAB, seed, END), drafter, chain_limit(5, chain_limit(3)), MatchVerifier(), SAMPLED)


@pytest.mark.parametrize("limit", [chain_limit(5), DraftLimit(6, 3, "tree")], ids=["chain", "tree"])
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("drawn", [False, True], ids=["chosen", "drawn"])
def test_models_propose_nothing_that_cannot_stand(drawn: bool, sampling: SamplingParams, limit: DraftLimit) -> None:
    rule = RecursiveVerifier() if drawn else MatchVerifier() if sampling is SAMPLED else GreedyVerifier()
    for seed in range(2):
        drafters: list[Drafter] = [DraftModelDrafter(_model(1), VOCAB, drawn=drawn)]
        drafters.append(FallbackDrafter([Random(VOCAB), drafters[0]]))
        if limit.shape == "chain":
            drafters.append(_hierarchy(Checked(DraftModelDrafter(_model(1), VOCAB, drawn=drawn)), drawn))
        for drafter in drafters:
            assert decoded(Language(VOCAB, seed, END), Checked(drafter), limit, rule, sampling)


@pytest.mark.parametrize("drawn", [False, True], ids=["chosen", "drawn"])
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_model_that_drafts_for_itself_is_always_right(sampling: SamplingParams, drawn: bool) -> None:
    """It sees the same mask as the rows that judge it, and is as sure of its tokens."""
    rule: Verifier = BlockVerifier() if drawn else MatchVerifier() if sampling is SAMPLED else GreedyVerifier()
    for seed in range(3):
        for name in ("same model", "ahead"):
            if name == "ahead" and drawn:
                continue
            steps = decoded(Language(VOCAB, seed, END), DRAFTERS[name](drawn), chain_limit(4), rule, sampling)
            drafted = [step for step in steps if step.finish is None]
            assert sum(step.num_drafted for step in drafted) > 0
            assert all(step.num_accepted == step.num_drafted for step in drafted)


def test_chances_are_those_among_what_is_allowed() -> None:
    """Where one token alone is allowed, it is certain."""
    certain = 0
    for seed in range(4):
        language = Language(VOCAB, seed, END)
        context = Context(80, GREEDY)
        context.hold(PROMPT)
        context.constraint = language
        drafter = DraftModelDrafter(_model(1), VOCAB)
        draft = drafter.propose(context, replace(chain_limit(6), floor=1e-9))
        for place, chance in enumerate(draft.chances):
            if len(language.after(draft.tokens[:place])) == 1:
                assert chance == 1.0
                certain += 1
    assert certain


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", ["same model", "other model", "hierarchy", "ahead"])
def test_models_draft_under_the_constraint_themselves(
    name: str, sampling: SamplingParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of their drafts is left out afterwards: a draft that was cut would be shorter for nothing."""
    drafted = 0

    def check(draft: Draft, constraint: Constraint | None) -> Draft:
        nonlocal drafted
        drafted += len(draft)
        assert allowed_part(draft, constraint) == draft
        return draft

    monkeypatch.setattr(loop_module, "allowed_part", check)
    for seed in range(4):
        rule = GreedyVerifier() if sampling is GREEDY else MatchVerifier()
        decoded(Language(VOCAB, seed, END), DRAFTERS[name](False), chain_limit(5), rule, sampling)
    assert drafted


def test_forced_tokens_are_all_accepted() -> None:
    drafted = 0
    for seed in range(8):
        language = Language(VOCAB, seed, END)
        for step in decoded(language, ForcedDrafter(), chain_limit(6), MatchVerifier(), SAMPLED):
            assert step.num_accepted == step.num_drafted
            assert step.sources[: step.num_drafted] == ("grammar",) * min(step.num_drafted, len(step.tokens))
            drafted += step.num_drafted
    assert drafted > 0


def test_an_error_in_a_step_leaves_the_constraint_where_it_was() -> None:
    context, constraint = Context(80, GREEDY), Language(VOCAB, 1, END)
    context.hold(PROMPT)
    context.constraint = constraint
    model, drafter = _model(0), Raising(2)
    model.prefill(PROMPT[:-1])
    loop = Loop(model, context, {drafter.name: drafter}, GreedyVerifier(), EndingWith(Ends(24), constraint))
    loop.step(Pick(drafter.name, chain_limit(2)))
    loop.step(Pick(drafter.name, chain_limit(2)))
    before = constraint.prefix
    with pytest.raises(RuntimeError):
        loop.step(Pick(drafter.name, chain_limit(2)))
    assert constraint.prefix == before
    context.truncate(len(context) - 1)
    assert constraint.prefix == before[:-1]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, VOCAB - 1), st.integers(-1, 5)), max_size=8), st.integers(0, 20))
def test_what_is_left_of_a_draft_is_all_that_may_stand(nodes: list[tuple[int, int]], seed: int) -> None:
    language = Language(VOCAB, seed)
    tokens = tuple(token for token, _ in nodes)
    parents = tuple(min(parent, node - 1) for node, (_, parent) in enumerate(nodes))
    draft = Draft(tokens, parents, chances=tuple(float(node) for node in range(len(tokens))))
    left = allowed_part(draft, language)

    def path(of: Draft, node: int) -> tuple[int, ...]:
        return () if node < 0 else (*path(of, of.parents[node]), of.tokens[node])

    may_stand = [
        path(draft, node)
        for node in range(len(draft))
        if language.count_allowed(path(draft, node)) == len(path(draft, node))
    ]
    assert [path(left, node) for node in range(len(left))] == may_stand
    assert [tokens[int(chance)] for chance in left.chances] == list(left.tokens)


def test_what_was_drawn_is_not_left_out() -> None:
    draft = Draft((5, 6), (-1, 0), DrawKind.INDEPENDENT)
    assert allowed_part(draft, Language(VOCAB, 2)) is draft


def test_an_answer_that_is_complete_with_its_last_token_is_not_cut_short() -> None:
    language = Language(VOCAB, 0, END)
    assert EndingWith(Ends(1), language).cut([END], 1).reason == "eos"
    assert EndingWith(Ends(1), language).cut([1], 1).reason == "length"
    assert EndingWith(Ends(8), language).cut([1, END, END], 3) == language.end([1, END, END])
