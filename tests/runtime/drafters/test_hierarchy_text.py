"""With any number of levels, each of any quality, the text is that of plain decoding."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.decoding.draft import Draft, DraftLimit, chain_limit, tree_limit
from runtime.decoding.protocols import Drafter
from runtime.decoding.sampling import SamplingParams
from runtime.decoding.stop import StopRule
from runtime.drafters.draft_model import DraftModelDrafter
from runtime.drafters.fallback import FallbackDrafter
from runtime.drafters.hierarchy import HierarchyDrafter
from runtime.drafters.suffix import SuffixDrafter
from tests.runtime.drafters.guesses import Random, adversarial, bushy, perfect
from tests.runtime.levels import context_of, decoded, stack, text_of
from tests.runtime.table_model import TableModel

GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.9, top_k=8, top_p=0.95, repetition_penalty=1.1, seed=3)
PROMPT = [3, 1, 4, 1, 5, 9, 2]
LIMIT = chain_limit(5, chain_limit(3))
TREES = chain_limit(6, DraftLimit(6, 3, "tree"))


class Adversary:
    """Drafts what another drafter would, every token changed."""

    def __init__(self, drafter: Drafter) -> None:
        self.name, self._drafter = "adversary", drafter

    def propose(self, context, limit: DraftLimit) -> Draft:
        draft = self._drafter.propose(context, limit)
        return Draft(tuple((token + 1) % 11 for token in draft.tokens), draft.parents, below=draft.below)


# What the intermediate, of the seed given, is sped up by; Scripted drafts are chains or trees as their scripts say.
BELOW: dict[str, Callable[[int], Drafter]] = {
    "perfect": lambda seed: perfect(TableModel(seed=seed)),
    "bushy": lambda seed: bushy(TableModel(seed=seed)),
    "adversarial": lambda seed: adversarial(TableModel(seed=seed)),
    "random": lambda seed: Random(11),
    "suffix": lambda seed: SuffixDrafter(),
    "small": lambda seed: DraftModelDrafter(TableModel(seed=8), 11),
    "either": lambda seed: FallbackDrafter([SuffixDrafter(), DraftModelDrafter(TableModel(seed=8), 11)]),
    "hierarchy": lambda seed: stack(TableModel(seed=9), TableModel(seed=8)),
}
# The intermediate is the target itself, another model, or one that is always wrong.
QUALITIES = ("perfect", "random", "adversarial")


def _hierarchy(quality: str, below: str) -> Drafter:
    seed = 1 if quality == "random" else 0
    drafter = HierarchyDrafter(BELOW[below](seed), TableModel(seed=seed), 11)
    return Adversary(drafter) if quality == "adversarial" else drafter


# Every drafter below and every quality, in both ways; all of them against each other are slow.
FEW = [(below, QUALITIES[number % 3]) for number, below in enumerate(BELOW)]
FEW += [("hierarchy", quality) for quality in QUALITIES if ("hierarchy", quality) not in FEW]
mixed = pytest.mark.parametrize(
    ("below", "quality"),
    [*FEW, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in product(BELOW, QUALITIES) if pair not in FEW)],
)
both_ways = pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
every_level = pytest.mark.parametrize("below", BELOW)


@both_ways
@mixed
@pytest.mark.parametrize("prompt", [PROMPT, pytest.param([2], marks=pytest.mark.slow)], ids=["prompt", "one-token"])
def test_text_is_that_of_plain_decoding(params: SamplingParams, quality: str, below: str, prompt: list[int]) -> None:
    plain = text_of(TableModel(), context_of(prompt, params), None, LIMIT)
    for limit in (LIMIT, TREES):
        drafter = _hierarchy(quality, below)
        steps = list(decoded(TableModel(), context_of(prompt, params), drafter, limit))
        assert [token for step in steps for token in step.tokens] == plain
        accepted, drafted = (
            sum(getattr(step, f"num_{kind}") for step in steps[:-1]) for kind in ("accepted", "drafted")
        )
        assert drafted >= 10
        if quality == "perfect":  # whatever is below it, it drafts what the target says
            assert accepted == drafted
        if quality == "adversarial" and params is GREEDY:
            assert accepted == 0


@both_ways
@mixed
def test_an_end_token_inside_a_draft_ends_the_answer(params: SamplingParams, quality: str, below: str) -> None:
    plain = text_of(TableModel(), context_of(PROMPT, params), None, LIMIT, stop=StopRule(max_new_tokens=24))
    for end in sorted(set(plain))[::3]:
        stop, context = StopRule(eos=[end], max_new_tokens=24), context_of(PROMPT, params)
        text = text_of(TableModel(), context, _hierarchy(quality, below), LIMIT, stop=stop)
        assert text == plain[: plain.index(end) + 1]
        assert context.tokens.tolist() == [*PROMPT, *text]


@both_ways
@every_level
def test_every_length_is_kept_exactly_and_can_be_continued(params: SamplingParams, below: str) -> None:
    plain = text_of(TableModel(), context_of(PROMPT, params), None, LIMIT, stop=StopRule(max_new_tokens=12))
    for length in range(1, 12):
        target, context, drafter = TableModel(), context_of(PROMPT, params), _hierarchy("random", below)
        first = text_of(target, context, drafter, LIMIT, stop=StopRule(max_new_tokens=length))
        assert first == plain[:length]
        assert text_of(target, context, drafter, LIMIT, stop=StopRule(max_new_tokens=12 - length)) == plain[length:]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 40),
    st.lists(st.integers(0, 3), min_size=3, max_size=4),
    st.sampled_from([chain_limit(3), tree_limit(3), DraftLimit(6, 3, "tree")]),
    st.integers(1, 5),
    st.integers(1, 8),
    st.booleans(),
)
def test_four_and_five_levels(
    seed: int, seeds: list[int], innermost: DraftLimit, inner: int, outer: int, greedy: bool
) -> None:
    """A drafter, two or three intermediates and the target; the limits of every level are its own."""
    params = GREEDY if greedy else SamplingParams(temperature=1.1, top_k=9, seed=seed)
    limit = chain_limit(outer, chain_limit(inner, innermost))
    plain = text_of(TableModel(), context_of(PROMPT, params), None, limit)
    drafter = stack(*(TableModel(seed=each) for each in seeds))
    steps = list(decoded(TableModel(), context_of(PROMPT, params), drafter, limit))
    assert [token for step in steps for token in step.tokens] == plain
    for step in steps[:-1]:
        for below in step.below:
            if below.num_drafted:
                assert below.num_drafted <= inner
                assert all(lowest.num_drafted <= innermost.nodes for lowest in below.below)
                assert sum(len(lowest.tokens) for lowest in below.below) == below.num_drafted


def test_a_hierarchy_that_fails_leaves_levels_that_go_on() -> None:
    """An error at any moment of the drafting, at any level: the next attempt yields the text of plain decoding."""
    plain = text_of(TableModel(), context_of(PROMPT, SAMPLED), None, LIMIT)
    for when, failing in islice(product(range(12), range(3)), 0, None, 2):
        models = [TableModel(seed=each) for each in (2, 1, 0)]
        drafter, target, context = stack(*models[:2]), models[2], context_of(PROMPT, SAMPLED)
        forward, left = models[failing].forward, [when]

        def fail(*args, forward=forward, left=left):
            left[0] -= 1
            if left[0] == -1:
                raise RuntimeError("out of luck")
            return forward(*args)

        models[failing].forward = fail
        with pytest.raises(RuntimeError, match="out of luck"):
            text_of(target, context, drafter, LIMIT)
        text = context.tokens[len(PROMPT) :].tolist()
        stop = StopRule(max_new_tokens=40 - len(text))
        assert [*text, *text_of(target, context, drafter, LIMIT, stop=stop)] == plain
