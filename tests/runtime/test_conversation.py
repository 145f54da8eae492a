"""A conversation keeps the tokens that were read and said: nothing of its past is computed again, or changed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, normalizers

from memory import Request
from runtime.conversation import Conversation
from runtime.decoding.sampling import SamplingParams
from runtime.engine import Engine, TextChunk
from runtime.kernels.library import library_path
from runtime.speculation.request import PLAIN, Speculation
from runtime.text.chat_template import ChatTemplate
from runtime.text.token_history import History
from runtime.text.tokenizer import Tokenizer
from tests.runtime.text.pair_tokenizer import pair_tokenizer
from tests.runtime.tiny_bundle import END, TEMPLATE

TURNS = 20
SAMPLED = SamplingParams(temperature=1.5, seed=3)
PAIRS = pair_tokenizer()


@pytest.fixture(scope="module")
def pair_engine(random_bundle: Path) -> Iterator[Engine]:
    """The random bundle, speaking pairs of letters."""
    with Engine.open(random_bundle, Request(threads=1, nodes=4)) as engine:
        engine.tokenizer = PAIRS
        yield engine


def talk(conversation: Conversation, turns: int = TURNS) -> list[TextChunk]:
    """The last chunk of every turn."""
    return [list(conversation.say(str(turn % 10)))[-1] for turn in range(turns)]


def check_cached(chunks: list[TextChunk]) -> None:
    """Of every prompt all is cached but the last token said before and what is new."""
    for before, after in pairwise(chunks):
        assert after.stats.cached_tokens == before.stats.prompt_tokens + before.stats.tokens - 1


@pytest.mark.parametrize("speculation", [PLAIN, Speculation("near", 4), Speculation("suffix", 4)], ids=str)
def test_twenty_turns_read_nothing_twice(pair_engine: Engine, speculation: Speculation) -> None:
    conversation = Conversation(pair_engine, max_new_tokens=3, sampling=SAMPLED, speculation=speculation)
    chunks = talk(conversation)
    assert len(chunks) == TURNS
    check_cached(chunks)
    cache = pair_engine.target.cache
    held, rows = cache.tokens.tolist(), [array[:, :, : cache.length].copy() for array in cache.arrays]
    assert held[:-2] != PAIRS.encode_chat(conversation.messages)[: len(held) - 2], "encoding again gives the same"
    cache.rollback(0)
    pair_engine.target.prefill(held)
    for kept, fresh in zip(rows, cache.arrays, strict=True):
        assert np.allclose(kept, fresh[:, :, : cache.length], rtol=0, atol=1e-4)


@pytest.mark.skipif(not library_path().is_file(), reason="the native kernels are not built")
def test_the_last_cache_of_twenty_turns_equals_that_of_a_fresh_prefill(tiny_bundle_int4: Path) -> None:
    with Engine.open(tiny_bundle_int4, kernels="native") as engine:
        check_cached(talk(Conversation(engine, max_new_tokens=2, sampling=SAMPLED)))
        cache = engine.target.cache
        held, rows = cache.tokens.tolist(), [array[:, :, : cache.length].copy() for array in cache.arrays]
        assert len(held) > 400
        cache.rollback(0)
        engine.target.prefill(held)
        for kept, fresh in zip(rows, cache.arrays, strict=True):
            np.testing.assert_array_equal(kept, fresh[:, :, : cache.length])


def test_a_cancelled_answer_is_kept_token_by_token(pair_engine: Engine) -> None:
    conversation = Conversation(pair_engine, max_new_tokens=12, sampling=SAMPLED, speculation=PLAIN)
    turn = conversation.say("1")
    for _ in range(5):
        last = next(turn)
    turn.close()
    check_cached([last, list(conversation.say("2"))[-1]])


def test_an_answer_that_ends_itself_is_followed_by_its_own_end_token(pair_engine: Engine) -> None:
    """Sampled hot until the end comes, which the template then puts in the same place."""
    hot = SamplingParams(temperature=9.0, seed=3)
    conversation = Conversation(pair_engine, sampling=hot, speculation=PLAIN, max_new_tokens=300)
    chunks = [list(conversation.say("1"))[-1], list(conversation.say("2"))[-1]]
    assert chunks[0].stats.finish == "eos"
    check_cached(chunks)


said = st.lists(st.integers(0, END - 1), max_size=12)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(said, st.booleans()), min_size=1, max_size=5))
def test_history_keeps_every_token_and_says_what_the_template_says(turns: list[tuple[list[int], bool]]) -> None:
    history, messages, before = History(PAIRS), [], []
    for answer, ended in turns:
        messages.append({"role": "user", "content": "abc. 1"})
        text = PAIRS.render_chat(messages)
        tokens = history.encode(text)
        assert tokens[: len(before)] == before
        assert PAIRS.decode(tokens) == text.replace("<|end|>", "")
        shown = PAIRS.decode(answer)
        messages.append({"role": "assistant", "content": shown})
        history.add_answer([*answer, *([END] if ended else [])], shown, ended)
        before = [*tokens, *answer, *([END] if ended else [])]


def continued(tokenizer: Tokenizer, answer: list[int], shown: str, ended: bool = False) -> tuple[list[int], list[int]]:
    """One answered turn and the next prompt: the tokens up to the answer's end, and those of the prompt."""
    history, messages = History(tokenizer), [{"role": "user", "content": "a"}]
    first = history.encode(tokenizer.render_chat(messages))
    history.add_answer(answer, shown, ended)
    messages += [{"role": "assistant", "content": shown}, {"role": "user", "content": "b"}]
    tokens = history.encode(tokenizer.render_chat(messages))
    assert tokenizer.decode(tokens) == tokenizer.decode(tokenizer.encode_chat(messages))
    return [*first, *answer], tokens


def test_an_end_token_that_the_template_does_not_put_there_is_left_out() -> None:
    tokenizer = pair_tokenizer(TEMPLATE.replace("<|end|>", "<|0|>"))
    before, tokens = continued(tokenizer, [0, 1, END], "ab", ended=True)
    assert tokens[: len(before) - 1] == before[:-1]
    assert END not in tokens


def test_what_a_stop_string_cut_off_is_left_out() -> None:
    before, tokens = continued(PAIRS, [0, 1, *PAIRS.encode("cd1", add_special_tokens=False)], "ab")
    assert tokens[: len(before) - 2] == before[:-2]


def test_a_stop_string_inside_a_token_is_followed_by_text() -> None:
    before, tokens = continued(PAIRS, [0, 1, *PAIRS.encode("cd", add_special_tokens=False)], "abc")
    assert tokens[: len(before)] == [*before[:-1], *PAIRS.encode("c", add_special_tokens=False)]


def test_a_template_that_rewrites_answers_is_followed() -> None:
    template = TEMPLATE.replace("{{ m.content }}", "{{ m.content.split('.')[-1] }}")
    tokenizer = pair_tokenizer(template)
    history, messages = History(tokenizer), [{"role": "user", "content": "a"}]
    for answer in ("ab.cd", "cd.ef", "ef"):
        first = history.encode(tokenizer.render_chat(messages))
        history.add_answer(tokenizer.encode(answer, add_special_tokens=False), answer, False)
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "b"}]
        tokens = history.encode(tokenizer.render_chat(messages))
        assert tokens[: len(first)] == first
        assert tokens == tokenizer.encode_chat(messages)


def test_messages_that_the_caller_changed_are_followed(pair_engine: Engine) -> None:
    conversation = Conversation(pair_engine, max_new_tokens=4, speculation=PLAIN)
    talk(conversation, 2)
    conversation.messages = [{"role": "user", "content": "h"}, {"role": "assistant", "content": "g"}]
    chunk = list(conversation.say("3"))[-1]
    assert pair_engine.target.cache.tokens[: chunk.stats.prompt_tokens].tolist() == PAIRS.encode_chat(
        conversation.messages[:-1]
    )


def test_a_tokenizer_that_begins_texts_with_a_space_puts_none_at_the_seam() -> None:
    """In SentencePiece's manner: the answer's first space is not shown, and templates put one there."""
    characters = ["▁", *(chr(code) for code in range(33, 127))]
    vocabulary = {token: index for index, token in enumerate([*characters, "ll"])}
    inner = Inner(models.BPE(vocabulary, [("l", "l")]))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(content=" ", left=1, right=0)]
    )
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}(I) {{ m.content }} (/I){% else %} {{ m.content }}{% endif %}"
        "{% endfor %}"
    )
    tokenizer = Tokenizer(inner, ChatTemplate(template, {}, "the test's template"))
    before, tokens = continued(tokenizer, [vocabulary[character] for character in "▁hello"], "hello")
    assert tokens[: len(before)] == before
    assert tokens[len(before) :] == [vocabulary[character] for character in "(I)▁b▁(/I)"]
