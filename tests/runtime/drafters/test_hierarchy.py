"""A hierarchy's draft is its intermediate's own text, whatever is below, and as long as its limit says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from export.manifest import PocketspecError
from memory.choices import Request
from runtime.decoding.draft import DraftLimit, DrawKind, chain_limit, tree_limit
from runtime.decoding.sampling import SamplingParams
from runtime.decoding.stop import StopRule
from runtime.drafters.draft_model import DraftModelDrafter
from runtime.drafters.hierarchy import HierarchyDrafter
from runtime.drafters.suffix import SuffixDrafter
from runtime.engine import Engine
from runtime.speculation.request import PLAIN, Speculation, check_drafter, needed_levels
from tests.runtime.drafters.guesses import adversarial, perfect
from tests.runtime.levels import context_of, stack
from tests.runtime.table_model import TableModel

GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.9, top_k=8, repetition_penalty=1.1, seed=3)
TOKENS = [3, 1, 4, 1, 5, 9, 2]
WINDOWED = {"capacity": 20, "max_rows": 4}
INNER = {"none": None, "chain": chain_limit(2), "tree": DraftLimit(5, 3, "tree"), "plain": DraftLimit(0, 0)}


def _alone(context, depth: int, **sizes: int) -> tuple[int, ...]:
    """What the intermediate drafts when nobody guesses for it."""
    return DraftModelDrafter(TableModel(**sizes), 11).propose(context, chain_limit(depth)).tokens


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("lower_seed", [0, 1])
@pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
def test_a_draft_is_what_the_intermediate_would_draft_alone(
    params: SamplingParams, lower_seed: int, inner: DraftLimit | None
) -> None:
    for depth in range(1, 9):
        context = context_of(TOKENS, params)
        draft = stack(TableModel(seed=lower_seed), TableModel()).propose(context, chain_limit(depth, inner))
        assert draft.tokens == _alone(context, depth)[: len(draft)]
        assert max(1, depth - (3 if inner is None else inner.depth)) <= len(draft) <= depth
        assert (draft.is_chain, draft.kind, draft.probs, draft.source) == (True, DrawKind.ONE_HOT, {}, "hierarchy0")


@pytest.mark.parametrize("guesses", [perfect, adversarial])
def test_the_draft_ends_as_soon_as_another_guess_could_make_it_too_long(guesses) -> None:
    """Of 6 at most and guesses of 2, no guess is begun once 4 are there."""
    context = context_of(TOKENS, GREEDY)
    draft = HierarchyDrafter(guesses(TableModel()), TableModel(), 11).propose(context, chain_limit(6, chain_limit(2)))
    each = [len(step.tokens) for step in draft.below]
    assert each == ([3, 3] if guesses is perfect else [1, 1, 1, 1])


def test_the_steps_below_say_how_the_draft_came_about() -> None:
    limit = chain_limit(6, tree_limit(3))
    draft = stack(TableModel(seed=1), TableModel()).propose(context_of(TOKENS, GREEDY), limit)
    assert tuple(token for step in draft.below for token in step.tokens) == draft.tokens
    assert [step.pick.name for step in draft.below] == ["draft_model-tree3x2"] * len(draft.below)
    assert sum(step.num_accepted for step in draft.below) + len(draft.below) == len(draft)
    assert all(step.finish is None for step in draft.below)


def test_guesses_from_below_save_forwards_of_the_intermediate() -> None:
    forwards = {}
    for lower_seed in (0, 1):
        middle = TableModel()
        forward, rows = middle.forward, []
        middle.forward = lambda tokens, *rest, run=forward, rows=rows: (rows.append(len(tokens)), run(tokens, *rest))[1]
        stack(TableModel(seed=lower_seed), middle).propose(context_of(TOKENS, GREEDY), chain_limit(8))
        forwards[lower_seed] = rows
    assert forwards[0] == [len(TOKENS) + 3, 4]  # four tokens each: three guesses and one of its own
    assert len(forwards[1]) > 2


def test_a_long_conversation_keeps_its_drafts_in_a_bounded_cache() -> None:
    middle, tokens = TableModel(**WINDOWED), [place * place % 11 for place in range(64)]
    drafter = stack(TableModel(seed=7), middle)
    for length in range(1, 64):
        context = context_of(tokens[:length], GREEDY)
        draft = drafter.propose(context, chain_limit(3, chain_limit(1)))
        assert draft.tokens == _alone(context, 3, **WINDOWED)[: len(draft)]
        assert max(1, min(3, 64 - length) - 1) <= len(draft) <= 64 - length  # no further than the context


def test_the_penalty_counts_tokens_before_the_window_too() -> None:
    """Half of all tokens were said, all of them before the window."""
    drafter = stack(TableModel(seed=7), TableModel(**WINDOWED))
    for last in range(5, 11):
        tokens = [*(place % 5 for place in range(27)), *(5 + place % 6 for place in range(13)), last]
        context = context_of(tokens, SamplingParams(repetition_penalty=9.0))
        draft = drafter.propose(context, chain_limit(3, DraftLimit(0, 0)))
        assert draft.tokens == _alone(context, 3, **WINDOWED)


def test_a_drafter_below_sees_what_came_before_the_window() -> None:
    """Only the distant beginning of the text says how it goes on."""
    words = [1, 2, 3, 4, 5, 6, 7, 8]
    context = context_of([*words, *[0] * 30, *words[:4]], GREEDY)
    draft = HierarchyDrafter(SuffixDrafter(), TableModel(**WINDOWED), 11).propose(context, chain_limit(3))
    assert draft.below[0].num_drafted == 2


def test_guesses_leave_room_for_padding() -> None:
    """Of five rows, four run: the fifth would need a sixth."""
    middle, context = TableModel(max_rows=5, pad=lambda rows: rows + rows % 2), context_of(TOKENS, GREEDY)
    drafter, limit = stack(TableModel(seed=7), middle), chain_limit(5, chain_limit(4))
    draft = drafter.propose(context, limit)
    assert draft.below[0].num_drafted == 3
    assert draft.tokens == _alone(context, 5)[: len(draft)]
    context.append([*draft.tokens, 7])  # two rows pending and two guesses
    assert drafter.propose(context, limit).below[0].num_drafted == 2


def test_tokens_that_a_level_lacks_do_no_harm() -> None:
    for middle, lower, vocab_size in ((7, 11, 11), (11, 5, 11), (7, 5, 11), (11, 11, 5), (4, 9, 11)):
        for drawn in (False, True):
            below = DraftModelDrafter(TableModel(lower, seed=1), vocab_size, drawn=drawn)
            drafter = HierarchyDrafter(below, TableModel(middle, seed=2), vocab_size, drawn=drawn)
            for last in range(10):
                for inner in (chain_limit(3), tree_limit(5)):
                    draft = drafter.propose(context_of([10, last, 2, 10], SAMPLED), chain_limit(6, inner))
                    assert 3 <= len(draft) <= 6
                    assert max(draft.tokens) < min(middle, vocab_size)


def test_a_cache_without_room_for_a_window_gives_no_drafts() -> None:
    drafter = stack(TableModel(), TableModel(capacity=8, max_rows=4))
    assert len(drafter.propose(context_of([1], GREEDY), chain_limit(3))) == 0


def test_a_drawn_draft_carries_the_intermediates_distributions() -> None:
    params, middle = SamplingParams(temperature=1.2, top_k=6, repetition_penalty=1.4, seed=5), TableModel(seed=2)
    for inner in (chain_limit(3), tree_limit(5)):
        context = context_of(TOKENS, params)
        draft = stack(TableModel(seed=1), middle, drawn=True).propose(context, chain_limit(7, inner))
        assert draft.kind is DrawKind.INDEPENDENT
        assert set(draft.probs) == set(draft.parents)
        alone = DraftModelDrafter(TableModel(seed=2), 11, drawn=True)
        for node in range(len(draft)):
            prefix = context_of([*TOKENS, *draft.tokens[:node]], params)
            assert np.array_equal(draft.probs[node - 1], alone.propose(prefix, chain_limit(1)).probs[-1])
            assert draft.probs[node - 1][draft.tokens[node]] > 0
    greedy = stack(TableModel(seed=1), middle, drawn=True).propose(context_of(TOKENS, GREEDY), chain_limit(7))
    assert (greedy.kind, greedy.probs) == (DrawKind.ONE_HOT, {})


@pytest.fixture(scope="module")
def engine(random_bundle: Path) -> Iterator[Engine]:
    with Engine.open(random_bundle, Request(context=96, drafters=("near", "far"), nodes=5)) as opened:
        yield opened


@pytest.mark.parametrize("params", [GREEDY, SamplingParams(temperature=0.8, seed=5)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", ["far>near", "near>far", "suffix>near", "suffix+far>near"])
@pytest.mark.parametrize("inner", [None, tree_limit(3)], ids=["chains below", "trees below"])
def test_users_name_it(engine: Engine, name: str, params: SamplingParams, inner: DraftLimit | None) -> None:
    prompt, rule = engine.encode("once upon a time"), StopRule(max_new_tokens=30)
    plain = list(engine.steps(prompt, stop=rule, sampling=params, speculation=PLAIN))
    speculation = Speculation(name, limit=chain_limit(5, inner))
    steps = list(engine.steps(prompt, stop=rule, sampling=params, speculation=speculation))
    assert [t for step in steps for t in step.tokens] == [t for step in plain for t in step.tokens]
    assert sum(step.num_drafted for step in steps) >= 30
    assert all(step.below for step in steps if step.num_drafted)


def test_names_that_cannot_be_are_refused() -> None:
    check_drafter("suffix+a>b", ["a", "b"], "here")
    assert needed_levels("suffix+a>b", ["c", "b", "a"]) == ("b", "a")
    with pytest.raises(PocketspecError, match="no drafter 'c' here; there are: a, b, suffix, none, auto"):
        check_drafter("a>c", ["a", "b"], "here")
    with pytest.raises(PocketspecError, match="'a>suffix': suffix cannot judge what is drafted below it; put a model"):
        check_drafter("a>suffix", ["a", "b"], "here")
    with pytest.raises(PocketspecError, match="own cannot judge"):
        check_drafter("a>own", ["a", "b"], "here", ["own"])


def test_a_hierarchy_drafts_no_trees(random_bundle: Path) -> None:
    with Engine.open(random_bundle, Request(context=64, shape="tree", nodes=5)) as engine:
        with pytest.raises(PocketspecError, match="drafter 'far>near' drafts chains; ask for shape chain"):
            engine.steps([1], stop=StopRule(), speculation=Speculation("far>near", shape="tree"))
        assert len(list(engine.steps([1], stop=StopRule(max_new_tokens=9), speculation=Speculation("far>near")))) > 1
