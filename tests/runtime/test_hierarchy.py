"""Three levels: any drafter below any intermediate leaves the text as it is, and both caches follow the text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.manifest import PocketspecError
from memory.choices import Request
from runtime.context import Context
from runtime.decode import decode
from runtime.draft import DraftLimit, Kind
from runtime.drafters import Drafter
from runtime.drafters.hierarchy import HierarchyDrafter
from runtime.drafters.small import SmallDrafter
from runtime.drafters.suffix import SuffixDrafter
from runtime.drafters.window import window_of
from runtime.engine import Engine
from runtime.sampling import SamplingParams
from runtime.scheduler.fixed import FixedScheduler
from runtime.speculation import PLAIN, Speculation, check_drafter, needed_levels
from runtime.stop import StopRule
from runtime.verify.match import MatchVerifier
from tests.runtime.guesses import Scripted
from tests.runtime.table_model import TableModel, fresh_rows
from tests.runtime.test_decode import Ends

GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.9, top_k=8, repetition_penalty=1.1, seed=3)
TOKENS = [3, 1, 4, 1, 5, 9, 2]
WINDOWED = {"capacity": 20, "max_rows": 4}


def _context(tokens: list[int], sampling: SamplingParams = GREEDY) -> Context:
    context = Context(64, sampling)
    context.append(tokens)
    return context


def _hierarchy(middle: TableModel, lower: TableModel | None = None, inner_nodes: int = 3) -> HierarchyDrafter:
    below = SmallDrafter(TableModel(seed=7) if lower is None else lower, 11)
    return HierarchyDrafter(below, middle, 11, inner_nodes=inner_nodes)


def _tokens(drafter: Drafter | None, params: SamplingParams, length: int = 40) -> tuple[list[int], int]:
    """The text, and how many of its tokens were drafted."""
    name = drafter.name if drafter else None
    drafters = {name: drafter} if drafter else {}
    scheduler = FixedScheduler(name, DraftLimit(5, 5))
    steps = list(decode(TableModel(), _context(TOKENS, params), drafters, scheduler, MatchVerifier(), Ends(length)))
    return [token for step in steps for token in step.tokens], sum(step.num_accepted for step in steps)


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("middle_seed", [0, 1])
@pytest.mark.parametrize("lower_seed", [0, 1])
def test_text_is_that_of_plain_decoding_for_any_quality_of_both(
    params: SamplingParams, middle_seed: int, lower_seed: int
) -> None:
    plain, _ = _tokens(None, params)
    text, accepted = _tokens(_hierarchy(TableModel(seed=middle_seed), TableModel(seed=lower_seed)), params)
    assert text == plain
    if middle_seed == 0:  # the target itself: whatever is below it, it drafts what the target says
        assert accepted >= len(text) * 4 // 5


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("lower_seed", [0, 1])
def test_a_draft_is_what_the_intermediate_would_draft_alone(params: SamplingParams, lower_seed: int) -> None:
    context = _context(TOKENS, params)
    alone = SmallDrafter(TableModel(), 11).propose(context, DraftLimit(6, 6))
    draft = _hierarchy(TableModel(), TableModel(seed=lower_seed)).propose(context, DraftLimit(6, 6))
    assert draft.tokens == alone.tokens
    assert (draft.is_chain, draft.kind, draft.source) == (True, Kind.ONE_HOT, "hierarchy")


def test_guesses_from_below_save_forwards_of_the_intermediate() -> None:
    forwards = {}
    for lower_seed in (0, 1):
        middle = TableModel()
        forward, rows = middle.forward, []
        middle.forward = lambda tokens, *rest, run=forward, rows=rows: (rows.append(len(tokens)), run(tokens, *rest))[1]
        _hierarchy(middle, TableModel(seed=lower_seed)).propose(_context(TOKENS), DraftLimit(8, 8))
        forwards[lower_seed] = rows
    assert forwards[0] == [len(TOKENS) + 3, 4]  # four tokens each: three guesses and one of its own
    assert len(forwards[1]) > 2


scripts = st.lists(st.lists(st.booleans(), max_size=6), min_size=1, max_size=6)
history = st.lists(
    st.tuples(st.integers(0, 9), st.lists(st.integers(0, 10), min_size=1, max_size=9)), min_size=1, max_size=6
)


@settings(max_examples=40, deadline=None)
@given(scripts, history, st.sampled_from([GREEDY, SAMPLED]), st.sampled_from([{}, WINDOWED]))
def test_caches_follow_the_text_through_any_accepts_and_rejects(
    script: list[list[bool]], turns: list[tuple[int, list[int]]], params: SamplingParams, sizes: dict[str, int]
) -> None:
    """Below, guesses are right or wrong by script; above, the text goes on as it likes."""
    middle = TableModel(**sizes)
    chains = [[(node, right) for node, right in enumerate(each)] for each in script]
    drafter = HierarchyDrafter(Scripted(TableModel(), chains), middle, 11)
    context = _context([1], params)
    for forgotten, tokens in turns:
        context.truncate(max(1, len(context) - forgotten))
        context.append(tokens)
        draft = drafter.propose(context, DraftLimit(3, 3))
        assert draft.tokens == SmallDrafter(TableModel(**sizes), 11).propose(context, DraftLimit(3, 3)).tokens
        held = middle.cache.tokens.tolist()
        window = window_of(context.tokens, 13).tolist() if sizes else context.tokens.tolist()
        assert held[: len(window)] == window
        assert np.array_equal(middle.cache.arrays[0][:, :, : len(held)], fresh_rows(middle, held))


def test_a_long_conversation_keeps_its_drafts_in_a_bounded_cache() -> None:
    middle, tokens = TableModel(**WINDOWED), [place * place % 11 for place in range(64)]
    drafter = _hierarchy(middle)
    for length in range(1, 64):
        context = _context(tokens[:length])
        draft = drafter.propose(context, DraftLimit(3, 3))
        alone = SmallDrafter(TableModel(**WINDOWED), 11).propose(context, DraftLimit(3, 3))
        assert draft.tokens == alone.tokens[: 64 - length]  # no further than the context


def test_guesses_leave_room_for_padding() -> None:
    """Of five rows, four run: the fifth would need a sixth."""
    middle, context = TableModel(max_rows=5, pad=lambda rows: rows + rows % 2), _context(TOKENS)
    alone = SmallDrafter(TableModel(), 11).propose(context, DraftLimit(5, 5))
    drafter = _hierarchy(middle, inner_nodes=4)
    assert drafter.propose(context, DraftLimit(5, 5)).tokens == alone.tokens
    context.append([*alone.tokens, 7])  # two rows pending and two guesses
    assert len(drafter.propose(context, DraftLimit(5, 5))) == 5


def test_three_levels_stay_in_step_to_the_end_of_the_context() -> None:
    for padding in (lambda rows: rows, lambda rows: rows + rows % 2):
        middle, lower = TableModel(seed=1, pad=padding), TableModel(seed=2)
        drafter, target = _hierarchy(middle, lower), TableModel()
        context = _context(TOKENS)
        scheduler = FixedScheduler(drafter.name, DraftLimit(5, 5))
        for _ in decode(target, context, {drafter.name: drafter}, scheduler, MatchVerifier(), Ends(99)):
            for model in (target, middle, lower):
                held = model.cache.tokens.tolist()
                assert np.array_equal(model.cache.arrays[0][:, :, : len(held)], fresh_rows(model, held))
        assert len(context) == context.capacity


def test_tokens_that_a_level_lacks_do_no_harm() -> None:
    for middle, lower, vocab_size in ((7, 11, 11), (11, 5, 11), (7, 5, 11), (11, 11, 5)):
        below = SmallDrafter(TableModel(lower, seed=1), vocab_size)
        drafter = HierarchyDrafter(below, TableModel(middle, seed=2), vocab_size)
        for last in range(10):
            draft = drafter.propose(_context([10, last, 2, 10], SAMPLED), DraftLimit(6, 6))
            assert len(draft) == 6
            assert max(draft.tokens) < min(middle, vocab_size)


def test_any_drafter_can_be_below_a_hierarchy_too() -> None:
    plain, _ = _tokens(None, GREEDY)
    for below in (SuffixDrafter(), _hierarchy(TableModel(seed=2))):
        assert _tokens(HierarchyDrafter(below, TableModel(seed=1), 11), GREEDY)[0] == plain


def test_a_cache_without_room_for_a_window_gives_no_drafts() -> None:
    assert len(_hierarchy(TableModel(capacity=8, max_rows=4)).propose(_context([1]), DraftLimit(3, 3))) == 0


@pytest.mark.parametrize("params", [GREEDY, SamplingParams(temperature=0.8, seed=5)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", ["far>near", "near>far", "suffix>near", "suffix+far>near"])
def test_users_name_it(random_bundle: Path, name: str, params: SamplingParams) -> None:
    with Engine.open(random_bundle, Request(context=96, drafters=("near", "far"), nodes=5)) as engine:
        prompt, rule = engine.encode("once upon a time"), StopRule(max_new_tokens=30)
        plain = list(engine.steps(prompt, stop=rule, sampling=params, speculation=PLAIN))
        steps = list(engine.steps(prompt, stop=rule, sampling=params, speculation=Speculation(name)))
        assert [t for step in steps for t in step.tokens] == [t for step in plain for t in step.tokens]
        assert sum(step.num_drafted for step in steps) > 30


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
