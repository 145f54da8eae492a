"""Every level's cache holds the text it stands for and nothing else, and no row is run twice to that end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.decoding.acceptance.block import BlockVerifier
from runtime.decoding.draft import DraftLimit, chain_limit, tree_limit
from runtime.decoding.sampling import SamplingParams
from runtime.decoding.stop import StopRule
from runtime.drafters.draft_model import DraftModelDrafter
from runtime.drafters.hierarchy import HierarchyDrafter
from runtime.drafters.window import window_of
from tests.runtime.drafters.guesses import Scripted, perfect
from tests.runtime.levels import context_of, decoded, stack
from tests.runtime.table_model import TableModel, fresh_rows

GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.9, top_k=8, repetition_penalty=1.1, seed=3)
TOKENS = [3, 1, 4, 1, 5, 9, 2]
WINDOWED = {"capacity": 20, "max_rows": 4}
EVEN = lambda rows: rows + rows % 2  # noqa: E731
LIMIT = chain_limit(5, chain_limit(3))
TREES = chain_limit(5, DraftLimit(6, 3, "tree"))


def check_cache(model: TableModel) -> list[int]:
    """The tokens that the cache says it holds; its rows must be those of a fresh prefill of them."""
    held = model.cache.tokens.tolist()
    assert np.array_equal(model.cache.arrays[0][:, :, : len(held)], fresh_rows(model, held))
    return held


class Counted(TableModel):
    """Notes the tokens of every forward."""

    def __init__(self, **sizes) -> None:
        super().__init__(**sizes)
        self.fed: list[list[int]] = []

    def forward(self, tokens: Sequence[int], parents=None, logits_from: int = 0):
        self.fed.append([int(token) for token in tokens])
        return super().forward(tokens, parents, logits_from)


scripts = st.lists(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=6),
    min_size=1,
    max_size=6,
)
history = st.lists(
    st.tuples(st.integers(0, 9), st.lists(st.integers(0, 10), min_size=1, max_size=9)), min_size=1, max_size=6
)


@settings(max_examples=60, deadline=None)
@given(scripts, history, st.sampled_from([GREEDY, SAMPLED]), st.sampled_from([{}, WINDOWED]))
def test_the_intermediates_cache_follows_any_accepts_rejects_and_edits(
    script: list[list[tuple[int, bool]]],
    turns: list[tuple[int, list[int]]],
    params: SamplingParams,
    sizes: dict[str, int],
) -> None:
    """Below, trees of guesses are right or wrong by script; above, the text goes on as it likes."""
    middle = TableModel(**sizes)
    drafter = HierarchyDrafter(Scripted(TableModel(), script), middle, 11)
    context = context_of([1], params)
    for forgotten, tokens in turns:
        context.truncate(max(1, len(context) - forgotten))
        context.append(tokens)
        draft = drafter.propose(context, chain_limit(3, chain_limit(1)))
        alone = DraftModelDrafter(TableModel(**sizes), 11).propose(context, chain_limit(3))
        assert draft.tokens == alone.tokens[: len(draft)]
        window = window_of(context.tokens, 13).tolist() if sizes else context.tokens.tolist()
        # What it said itself is read when it goes on, or never.
        assert check_cache(middle) == [*window, *draft.tokens[:-1]]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 60),
    st.lists(st.integers(0, 2), min_size=2, max_size=4),
    st.sampled_from([LIMIT, TREES, chain_limit(6, chain_limit(4, tree_limit(3))), chain_limit(4, DraftLimit(0, 0))]),
    st.sampled_from(["greedy", "matched", "drawn"]),
    st.sampled_from([{}, {"pad": EVEN}]),
)
def test_every_level_stays_in_step_to_the_end_of_the_context(
    seed: int, seeds: list[int], limit: DraftLimit, way: str, sizes: dict
) -> None:
    """Accepts and rejects fall at random on two to four levels; after every step all caches are of this text."""
    params = GREEDY if way == "greedy" else SamplingParams(temperature=1.2, seed=seed)
    levels = [TableModel(seed=each, **sizes) for each in seeds]
    target, context = TableModel(**sizes), context_of(TOKENS, params)
    drafter = stack(*levels, drawn=way == "drawn")
    rule = BlockVerifier() if way == "drawn" else None
    for _ in decoded(target, context, drafter, limit, rule, StopRule()):
        assert check_cache(target) == context.tokens[:-1].tolist()
        for model in levels:
            check_cache(model)
    assert len(context) == context.capacity


# The right path alone, and the right path behind two wrong siblings.
RIGHT = {"chain": [(0, True), (1, True), (2, True)], "tree": [(0, False), (0, False), (0, True), (3, True), (4, True)]}


@pytest.mark.parametrize("shape", RIGHT)
def test_after_a_full_accept_two_rows_catch_up_in_the_forward_that_judges(shape: str) -> None:
    """The intermediate has seen neither its own last token nor the bonus: no forward is spent on them alone."""
    middle, context = Counted(), context_of(TOKENS, GREEDY)
    drafter = HierarchyDrafter(Scripted(TableModel(), [RIGHT[shape]]), middle, 11)
    limit = chain_limit(4, DraftLimit(5, 3, "tree"))
    first = drafter.propose(context, limit)
    assert (first.rows_read, len(first)) == (len(TOKENS) - 1, 4)
    context.append([*first.tokens, 7])
    middle.fed.clear()
    second = drafter.propose(context, limit)
    assert (second.rows_read, len(second.below), len(second)) == (1, 1, 4)
    assert [len(fed) for fed in middle.fed] == [2 + len(RIGHT[shape])]
    assert middle.fed[0][:2] == [first.tokens[-1], 7]
    assert check_cache(middle) == [*TOKENS, *first.tokens, 7, *second.tokens[:3]]


@pytest.mark.parametrize("accepted", range(4))
def test_after_a_rejection_the_correction_is_the_only_row_to_read(accepted: int) -> None:
    middle, context = Counted(), context_of(TOKENS, GREEDY)
    drafter = HierarchyDrafter(perfect(TableModel()), middle, 11)
    first = drafter.propose(context, chain_limit(4))
    correction = (first.tokens[accepted] + 1) % 11
    context.append([*first.tokens[:accepted], correction])
    middle.fed.clear()
    second = drafter.propose(context, chain_limit(4))
    assert second.rows_read == 0
    assert middle.fed[0] == [correction, *second.tokens[:3]]


def test_a_prompt_too_long_for_one_forward_is_read_before_the_first_step() -> None:
    middle, context = Counted(max_rows=4), context_of(TOKENS, GREEDY)
    draft = HierarchyDrafter(perfect(TableModel()), middle, 11).propose(context, chain_limit(4))
    assert draft.rows_read == len(TOKENS) - 1
    assert middle.fed == [[TOKENS[-1], *draft.tokens[:3]]]


@pytest.mark.parametrize("accepted", range(4))
def test_the_lowest_drafter_keeps_what_survives_of_its_guesses(accepted: int) -> None:
    """Restarted where the target cut the draft, it reads the correction, and of what stands its own last guess."""
    lower, context = Counted(), context_of(TOKENS, GREEDY)
    drafter = stack(lower, TableModel())
    first = drafter.propose(context, chain_limit(4))
    assert lower.fed == [TOKENS, *([token] for token in first.tokens[:2])]  # the third guess is not read
    correction = (first.tokens[accepted] + 1) % 11
    context.append([*first.tokens[:accepted], correction])
    lower.fed.clear()
    second = drafter.propose(context, chain_limit(4))
    assert lower.fed[0] == [*first.tokens[2:accepted], correction]
    assert second.below[0].rows_read == len(first.tokens[2:accepted])
    check_cache(lower)


def test_the_lowest_drafter_reads_each_correction_of_the_intermediate_once() -> None:
    lower, context = Counted(seed=1), context_of(TOKENS, GREEDY)
    draft = stack(lower, TableModel()).propose(context, chain_limit(8))
    starts = [0, *(each for each, fed in enumerate(lower.fed) if each and each % 3 == 0)]
    assert [step.num_accepted for step in draft.below] == [0] * len(draft.below)
    assert [lower.fed[start] for start in starts[1:]] == [[token] for token in draft.tokens[: len(starts) - 1]]
    assert [step.rows_read for step in draft.below] == [len(TOKENS) - 1] + [0] * (len(draft.below) - 1)
