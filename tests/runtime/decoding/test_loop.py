"""The laws of decoding: whatever is drafted, the output is plain decoding's, and the cache as if nothing had been."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.decoding.acceptance.sample_and_match import MatchVerifier
from runtime.decoding.context import Context
from runtime.decoding.draft import DraftLimit, Step
from runtime.decoding.loop import decode
from runtime.decoding.protocols import Drafter
from runtime.decoding.sampling import SamplingParams
from runtime.decoding.stop import Cut
from runtime.drafters.draft_model import DraftModelDrafter
from runtime.drafters.overlapped import OverlappedDrafter
from runtime.drafters.suffix import SuffixDrafter
from runtime.errors import ContextFullError
from runtime.scheduler.fixed import FixedScheduler
from tests.runtime.drafters.guesses import (
    Raising,
    Random,
    Scripted,
    adversarial,
    bushy,
    coin_flips,
    perfect,
    plain_token,
)
from tests.runtime.table_model import TableModel, fresh_rows

GREEDY = SamplingParams()
WIDE = DraftLimit(8, 8)
SAMPLED = SamplingParams(temperature=0.8, top_k=6, top_p=0.95, repetition_penalty=1.2, seed=7)
PROMPT = [3, 1, 4, 1, 5]
EVEN = lambda rows: rows + rows % 2  # noqa: E731

DRAFTERS: dict[str, Callable[[TableModel], Drafter]] = {
    "perfect": perfect,
    "bushy": bushy,
    "adversarial": adversarial,
    "random": lambda model: Random(model.vocab_size),
    "empty": lambda model: Scripted(model, []),
    "small chain": lambda model: DraftModelDrafter(_like(model, seed=0), model.vocab_size),
    "small tree": lambda model: DraftModelDrafter(_like(model, seed=0), model.vocab_size),
    "suffix": lambda model: SuffixDrafter(),
    "bad chain": lambda model: DraftModelDrafter(_like(model, seed=1), model.vocab_size),
    "ahead": lambda model: OverlappedDrafter(perfect(model)),
    "ahead of chance": lambda model: OverlappedDrafter(coin_flips(model)),
    "ahead small": lambda model: OverlappedDrafter(DraftModelDrafter(_like(model, seed=0), model.vocab_size)),
    "ahead bad": lambda model: OverlappedDrafter(DraftModelDrafter(_like(model, seed=1), model.vocab_size)),
    "ahead suffix": lambda model: OverlappedDrafter(SuffixDrafter()),
    "bad tree": lambda model: DraftModelDrafter(_like(model, seed=1), model.vocab_size),
}


def _like(model: TableModel, seed: int) -> TableModel:
    return TableModel(model.vocab_size, model.cache.capacity, seed=seed)


@dataclass
class Ends:
    """A stop rule over tokens: an end token, a word that is cut off together with its tokens, a length."""

    max_new: int = 24
    eos: int | None = None
    word: Sequence[int] = field(default_factory=list)

    def cut(self, generated: Sequence[int], fresh: int) -> Cut:
        first = len(generated) - fresh
        for end in range(first + 1, len(generated) + 1):
            if self.word and list(generated[:end][-len(self.word) :]) == list(self.word):
                return Cut(max(0, end - len(self.word) - first), "stop")
            if generated[end - 1] == self.eos:
                return Cut(end - first, "eos")
            if end >= self.max_new:
                return Cut(end - first, "length")
        return Cut(fresh)


@dataclass
class Chat:
    """A target and what is committed, decoded with one drafter; every step is checked against a fresh prefill."""

    drafter: Drafter | None = None
    target: TableModel = field(default_factory=lambda: TableModel(pad=EVEN))
    sampling: SamplingParams = GREEDY
    capacity: int = 80
    limit: DraftLimit = WIDE

    def __post_init__(self) -> None:
        self.context = Context(self.capacity, self.sampling)

    def steps(self, stop: Ends):
        name = self.drafter.name if self.drafter else None
        drafters = {name: self.drafter} if name else {}
        for step in decode(
            self.target, self.context, drafters, FixedScheduler(name, self.limit), MatchVerifier(), stop
        ):
            self.check()
            yield step

    def answer(self, more: Sequence[int] = (), stop: Ends | None = None) -> list[int]:
        """Commits ``more`` and returns the answer to it."""
        self.context.append(list(more))
        start = len(self.context)
        steps = list(self.steps(stop or Ends()))
        assert [step.finish is None for step in steps] == [True] * (len(steps) - 1) + [False]
        tokens = [token for step in steps for token in step.tokens]
        assert tokens == self.context.tokens[start:].tolist()
        return tokens

    def check(self) -> None:
        cache, tokens = self.target.cache, self.context.tokens
        assert cache.length == len(tokens) - 1
        assert np.array_equal(cache.tokens, tokens[:-1])
        assert np.array_equal(cache.arrays[0][:, :, : cache.length], fresh_rows(self.target, tokens[:-1].tolist()))


def reference(prompt: Sequence[int], count: int, sampling: SamplingParams) -> list[int]:
    """Plain decoding without any cache."""
    model, tokens = TableModel(), list(prompt)
    context = Context(1, sampling)
    for _ in range(count):
        tokens.append(plain_token(model, tokens, context))
    return tokens[len(prompt) :]


every_drafter = pytest.mark.parametrize("name", DRAFTERS)
both_ways = pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])


def _chat(name: str, sampling: SamplingParams = GREEDY, **fields) -> Chat:
    fields.setdefault("limit", replace(WIDE, shape="tree" if "tree" in name else "chain"))
    chat = Chat(sampling=sampling, **fields)
    chat.drafter = DRAFTERS[name](chat.target)
    return chat


@every_drafter
@both_ways
@pytest.mark.parametrize("prompt", [PROMPT, [2]], ids=["prompt", "one-token"])
def test_output_is_plain_decoding(name: str, sampling: SamplingParams, prompt: list[int]) -> None:
    expected = reference(prompt, 24, sampling)
    assert Chat(sampling=sampling).answer(prompt) == expected
    assert _chat(name, sampling).answer(prompt) == expected


@every_drafter
@both_ways
def test_an_end_token_inside_a_draft_ends_the_answer(name: str, sampling: SamplingParams) -> None:
    plain = reference(PROMPT, 24, sampling)
    for eos in sorted(set(plain))[::2]:
        chat = _chat(name, sampling)
        assert chat.answer(PROMPT, Ends(eos=eos)) == plain[: plain.index(eos) + 1]


@every_drafter
def test_every_length_is_kept_exactly_and_can_be_continued(name: str) -> None:
    plain = reference(PROMPT, 12, GREEDY)
    for length in range(1, 12):
        chat = _chat(name)
        assert chat.answer(PROMPT, Ends(length)) == plain[:length]
        assert chat.answer(stop=Ends(12 - length)) == plain[length:]


@every_drafter
def test_what_a_stop_word_cuts_is_in_neither_answer_nor_cache(name: str) -> None:
    plain = reference(PROMPT, 20, GREEDY)
    for start in range(6):
        word = plain[start : start + 2]
        first = next(i for i in range(20) if plain[i : i + 2] == word)
        chat = _chat(name)
        tokens = chat.answer(PROMPT, Ends(word=word))
        # A plain step may have committed the word's first token before the second one completed it.
        assert tokens in (plain[:first], plain[: first + 1])
        chat.check()


@every_drafter
@both_ways
def test_a_second_turn_equals_plain_decoding_of_the_whole(name: str, sampling: SamplingParams) -> None:
    chat = _chat(name, sampling)
    first = chat.answer(PROMPT, Ends(9))
    history = [*PROMPT, *first, 6, 6, 2]
    assert chat.answer([6, 6, 2], Ends(9)) == reference(history, 9, sampling)


@every_drafter
def test_an_edited_history_keeps_the_common_prefix_only(name: str) -> None:
    chat = _chat(name)
    chat.answer(PROMPT, Ends(9))
    chat.context.truncate(4)
    assert chat.answer([9, 9], Ends(9)) == reference([*PROMPT[:4], 9, 9], 9, GREEDY)


def test_a_second_turn_computes_only_what_is_new() -> None:
    chat = Chat()
    chat.answer(PROMPT, Ends(9))
    held = chat.target.cache.length
    fed: list[int] = []
    prefill = chat.target.prefill
    chat.target.prefill = lambda tokens: (fed.extend(tokens), prefill(tokens))[1]
    chat.answer([6, 6, 2], Ends(1))
    assert fed == chat.context.tokens[held:-2].tolist()
    assert len(fed) == 3  # the last token of the first answer and all of the turn but its last


@every_drafter
def test_closing_after_any_step_leaves_a_usable_state(name: str) -> None:
    plain = reference(PROMPT, 24, GREEDY)
    for count in range(6):
        chat = _chat(name)
        chat.context.append(PROMPT)
        steps = chat.steps(Ends())
        taken = [token for step in islice(steps, count) for token in step.tokens]
        steps.close()
        assert taken == plain[: len(taken)]
        rest = chat.answer(stop=Ends(24 - len(taken))) if len(taken) < 24 else []
        assert taken + rest == plain


@pytest.mark.parametrize("when", range(3))
def test_an_error_in_a_step_undoes_that_step_alone(when: int) -> None:
    chat = Chat(Raising(when))
    with pytest.raises(RuntimeError, match="the drafter failed"):
        chat.answer(PROMPT)
    chat.check()
    done = len(chat.context) - len(PROMPT)
    chat.drafter = None
    assert chat.answer(stop=Ends(24 - done)) == reference(PROMPT, 24, GREEDY)[done:]


def test_an_error_behind_the_forward_undoes_the_rows_too() -> None:
    class Broken(Ends):
        def cut(self, generated: Sequence[int], fresh: int) -> Cut:
            raise KeyboardInterrupt

    chat = _chat("bushy")
    with pytest.raises(KeyboardInterrupt):
        chat.answer(PROMPT, Broken())
    chat.check()
    assert chat.answer(stop=Ends(5)) == reference(PROMPT, 5, GREEDY)


@every_drafter
def test_a_full_context_ends_the_answer_at_its_last_token(name: str) -> None:
    chat = _chat(name, capacity=17)
    steps: list[Step] = []
    chat.context.append(PROMPT)
    steps.extend(chat.steps(Ends(99)))
    assert steps[-1].finish == "context"
    assert len(chat.context) == 17
    assert [token for step in steps for token in step.tokens] == reference(PROMPT, 12, GREEDY)
    with pytest.raises(ContextFullError, match="17 tokens; allowed are 1 to 16"):
        chat.answer()


@every_drafter
def test_a_full_cache_ends_the_answer_with_no_row_too_many(name: str) -> None:
    chat = _chat(name, target=TableModel(capacity=15, pad=EVEN))
    chat.context.append(PROMPT)
    steps = list(chat.steps(Ends(99)))
    assert steps[-1].finish == "context"
    assert [token for step in steps for token in step.tokens] == reference(PROMPT, 99, GREEDY)[: len(chat.context) - 5]
    assert chat.target.cache.length > 15 - 2


def test_a_prompt_that_does_not_fit_is_refused_with_the_numbers() -> None:
    chat = Chat(capacity=8)
    with pytest.raises(ContextFullError, match="a prompt of 8 tokens; allowed are 1 to 7 in a context of 8"):
        chat.answer([1] * 8)
    chat = Chat(target=TableModel(capacity=10))
    with pytest.raises(ContextFullError, match=r"20 more rows do not fit a cache of 10 that holds 0"):
        chat.answer([1] * 20)
    with pytest.raises(ContextFullError, match="a prompt of 0 tokens"):
        Chat().answer([])


def test_a_step_tells_who_proposed_what() -> None:
    chat = _chat("perfect", limit=DraftLimit(3, 3))
    chat.context.append(PROMPT)
    first, second = islice(chat.steps(Ends(6)), 2)
    assert first.sources == ("scripted", "scripted", "scripted", "target")
    assert (first.num_drafted, first.num_accepted, first.finish) == (3, 3, None)
    # Cut after two of its four tokens; acceptance is not diminished by the cut.
    assert second.sources == ("scripted", "scripted")
    assert (len(second.tokens), second.num_accepted, second.finish) == (2, 3, "length")
    assert first.seconds >= first.draft_seconds + first.target_seconds > 0


def test_a_perfect_tree_is_accepted_to_its_depth() -> None:
    chat = _chat("bushy")
    chat.context.append(PROMPT)
    first = next(chat.steps(Ends()))
    assert (first.num_drafted, first.num_accepted, len(first.tokens)) == (8, 3, 4)


@pytest.mark.parametrize("place", [0, 1])
def test_a_step_tells_whether_the_first_choice_was_right(place: int) -> None:
    """Two guesses at the next token, one of them right, and one behind that."""
    target = TableModel(pad=EVEN)
    chat = Chat(Scripted(target, [[(0, place == 0), (0, place == 1), (1 + place, True)]]), target)
    chat.context.append(PROMPT)
    step = next(chat.steps(Ends()))
    assert (step.num_drafted, step.num_accepted, step.depth, step.pick.limit) == (3, 2, 2, WIDE)
    assert (step.main_drafted, step.main_accepted) == (1, place == 0)


@pytest.mark.parametrize(("right", "accepted"), [((0, 1, 2), 3), ((0, 1, 3), 2), ((0, 4, 5), 1), ((6, 7), 0)])
def test_a_step_tells_how_far_the_first_choices_were_right(right: tuple[int, ...], accepted: int) -> None:
    """A main path of three nodes, with a branch at each of them: 0-1-2, 0-1-3, 0-4-5, 6-7."""
    parents = [0, 1, 2, 2, 1, 5, 0, 7]
    target = TableModel(pad=EVEN)
    chat = Chat(Scripted(target, [[(parent, node in right) for node, parent in enumerate(parents)]]), target)
    chat.context.append(PROMPT)
    step = next(chat.steps(Ends()))
    assert (step.num_accepted, step.main_drafted, step.main_accepted) == (len(right), 3, accepted)


scripts = st.lists(st.lists(st.tuples(st.integers(0, 8), st.booleans()), max_size=9), max_size=6)


@settings(max_examples=30, deadline=None)
@given(scripts, st.sampled_from([GREEDY, SAMPLED]), st.integers(1, 16), st.integers(1, 12))
def test_any_script_of_hits_and_misses_leaves_output_and_cache_as_they_were(
    script: list[list[tuple[int, bool]]], sampling: SamplingParams, length: int, nodes: int
) -> None:
    chat = Chat(sampling=sampling, limit=DraftLimit(nodes, nodes))
    chat.drafter = Scripted(chat.target, script)
    assert chat.answer(PROMPT, Ends(length)) == reference(PROMPT, length, sampling)
    assert chat.answer([1, 2], Ends(4)) == reference([*chat.context.tokens[: len(PROMPT) + length], 1, 2], 4, sampling)
