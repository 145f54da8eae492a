"""Text of several turns is encoded exactly as the whole, by every kind of tokenizer; answers keep their own tokens."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Inner

from runtime.text.chat_template import ChatTemplate
from runtime.text.token_history import History
from runtime.text.tokenizer import Tokenizer

# Texts whose words, spaces and line breaks merge with one another across seams.
_CORPUS = [
    "one two three\n\nfour five, six! \n seven  eight.\n",
    "Hello!\n\n Hello, hello?\n hello  \n\tworld \n\n",
    "user: two\nassistant: yes.\n\n(two) \n yes!\n\n two\n",
] * 20
_SPECIAL = ("<|user|>", "<|end|>", "<|assistant|>")
KINDS = (
    "byte-level",
    "byte-level regex",
    "metaspace always",
    "metaspace first",
    "metaspace never",
    "prepend",
    "unigram",
)
FLAGS = ({}, {"rstrip": True}, {"lstrip": True}, {"rstrip": True, "lstrip": True}, {"single_word": True})
TEMPLATES = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}{{ '<|assistant|>\n' }}",
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}<|assistant|>",
    "{% for m in messages %}<|{{ m.role }}|> {{ m.content }} <|end|> \n {% endfor %}<|assistant|> ",
    "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>\n{% endfor %}assistant: ",
    # The last one ends a prompt with less than it puts before an answer.
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}<|assistant|>",
)


@cache
def trained(kind: str) -> str:
    """A small tokenizer of the kind, as JSON, without special tokens of its own."""
    name, _, scheme = kind.partition(" ")
    if name == "byte-level":
        inner = Inner(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=scheme == "regex")
        inner.decoder = decoders.ByteLevel()
        inner.post_processor = processors.ByteLevel(trim_offsets=True)
        trainer: Any = trainers.BpeTrainer(
            vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
    else:
        inner = Inner(models.Unigram() if name == "unigram" else models.BPE(byte_fallback=True))
        scheme = scheme or "always"
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
        inner.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        alphabet = sorted(set("".join(_CORPUS) + "▁<|>"))
        shared = {"vocab_size": 200, "initial_alphabet": alphabet, "show_progress": False}
        trainer = (
            trainers.UnigramTrainer(unk_token="<unk>", special_tokens=["<unk>"], **shared)
            if name == "unigram"
            else trainers.BpeTrainer(**shared)
        )
    inner.train_from_iterator(_CORPUS, trainer)
    if name == "prepend":
        inner.pre_tokenizer = None
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return str(inner.to_str())


@cache
def pair(kind: str, flags: int, normalized: bool, template: int) -> tuple[Tokenizer, Inner]:
    """Ours, and the library's own of the same kind."""
    both = [Inner.from_str(trained(kind)) for _ in range(2)]
    for inner in both:
        inner.add_special_tokens([AddedToken(each, normalized=normalized, **FLAGS[flags]) for each in _SPECIAL])
    return Tokenizer(both[0], ChatTemplate(TEMPLATES[template], {}, "the test's template")), both[1]


def pairs(templates: range) -> st.SearchStrategy[tuple[Tokenizer, Inner]]:
    which = (st.sampled_from(KINDS), st.sampled_from(range(len(FLAGS))), st.booleans(), st.sampled_from(templates))
    return st.tuples(*which).map(lambda chosen: pair(*chosen))


words = st.lists(
    st.sampled_from(["one", "two", "Hello", "!", "\n", "\n\n", " ", "  ", ".", "é", "日"]), max_size=5
).map("".join)


def whole(inner: Inner, text: str) -> list[int]:
    return list(inner.encode(text, add_special_tokens=False).ids)


def turns_of(tokenizer: Tokenizer, answers: list[str]) -> Iterator[tuple[str, str, str]]:
    """Answer, the text before it, and the text that asks again after it."""
    messages = [{"role": "user", "content": "one"}]
    for answer in answers:
        before = tokenizer.render_chat(messages)
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "two"}]
        yield answer, before, tokenizer.render_chat(messages)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(both=pairs(range(len(TEMPLATES))), answers=st.lists(words, min_size=1, max_size=3))
def test_answers_of_the_wholes_own_tokens_give_the_whole(both: tuple[Tokenizer, Inner], answers: list[str]) -> None:
    """A model that says what the tokenizer would write leaves nothing to tell the pieces from the whole."""
    ours, library = both
    history, end = History(ours), library.token_to_id("<|end|>")
    for answer, before, after in turns_of(ours, answers):
        prompt, expected = whole(library, before), whole(library, after)
        assert history.encode(before) == prompt
        assume(expected[: len(prompt)] == prompt and end in expected[len(prompt) :])
        said = expected[len(prompt) : expected.index(end, len(prompt)) + 1]
        assume(ours.decode(said[:-1]) == answer)
        history.add_answer(said, answer, ended=True)
        assert history.encode(after) == expected


@settings(max_examples=100, deadline=None)
@given(
    both=pairs(range(len(TEMPLATES) - 1)),
    answers=st.lists(st.lists(st.integers(3, 150), min_size=1, max_size=6), min_size=1, max_size=3),
    ended=st.booleans(),
)
def test_what_follows_an_answer_is_as_in_the_whole(
    both: tuple[Tokenizer, Inner], answers: list[list[int]], ended: bool
) -> None:
    """Whatever an answer was made of: its tokens stay, and from the end token on all is as the whole has it."""
    ours, library = both
    history, end = History(ours), library.token_to_id("<|end|>")
    messages = [{"role": "user", "content": "one"}]
    prompt = history.encode(ours.render_chat(messages))
    for number, said in enumerate(answers, 1):
        shown = ours.decode(said)
        history.add_answer([*said, *([end] if ended else [])], shown, ended)
        messages += [{"role": "assistant", "content": shown}, {"role": "user", "content": "two"}]
        text = ours.render_chat(messages)
        tokens, expected = history.encode(text), whole(library, text)
        assert tokens[: len(prompt) + len(said)] == [*prompt, *said]
        ends = [place for place, token in enumerate(expected) if token == end]
        if len(ends) == len(messages):
            follows = expected[ends[2 * number - 1] :]
            assert tokens[-len(follows) :] == follows
            between = tokens[len(prompt) + len(said) : -len(follows)]
            assert not ours.decode(between).strip()
        prompt = tokens


def test_a_space_that_the_template_writes_behind_an_empty_answer_is_the_end_tokens() -> None:
    """The end token of this tokenizer includes the space before it; the answer is a token that shows nothing."""
    ours, library = pair("prepend", 0, True, 2)
    space, history = library.token_to_id("▁"), History(ours)
    history.encode(ours.render_chat([{"role": "user", "content": "one"}]))
    assert ours.decode([space]) == ""
    history.add_answer([space], "", ended=False)
    turns = (("user", "one"), ("assistant", ""), ("user", "two"))
    text = ours.render_chat([{"role": role, "content": content} for role, content in turns])
    assert history.encode(text).count(library.token_to_id("<|end|>")) == len(turns)


@pytest.mark.parametrize("kind", ["metaspace always", "prepend", "unigram"])
def test_an_answer_that_is_shown_with_its_first_space_keeps_its_tokens(kind: str) -> None:
    """A constrained answer may begin with the space that such tokenizers hide."""
    ours, _ = pair(kind, 0, False, 0)
    history, messages = History(ours), [{"role": "user", "content": "one"}]
    prompt = history.encode(ours.render_chat(messages))
    said = ours.encode("two", add_special_tokens=False)
    shown = ours.decode(said, prompt[-16:])
    assert shown == " two"
    history.add_answer(said, shown, ended=False)
    messages += [{"role": "assistant", "content": shown}, {"role": "user", "content": "three"}]
    assert history.encode(ours.render_chat(messages))[: len(prompt) + len(said)] == [*prompt, *said]


_OVERLAPPING = ("<a>", "<b>", "x<", "<a><", "<c", "c<b", " <d>", "<e>")


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(KINDS[:5]),
    flags=st.lists(st.sampled_from(FLAGS), min_size=len(_OVERLAPPING), max_size=len(_OVERLAPPING)),
    normalized=st.lists(st.booleans(), min_size=len(_OVERLAPPING), max_size=len(_OVERLAPPING)),
    parts=st.lists(st.sampled_from([*_OVERLAPPING, "one", " ", "\n", "x", "c", "<", ">"]), min_size=2, max_size=12),
    data=st.data(),
)
def test_a_text_is_cut_only_where_that_changes_no_token(
    kind: str, flags: list[dict[str, bool]], normalized: list[bool], parts: list[str], data: st.DataObject
) -> None:
    """Whatever the added tokens overlap: behind a border of tokens, the rest is that of the whole."""
    both = [Inner.from_str(trained(kind)) for _ in range(2)]
    for inner in both:
        each = zip(_OVERLAPPING, flags, normalized, strict=True)
        inner.add_tokens([AddedToken(text, normalized=is_normalized, **more) for text, more, is_normalized in each])
    both[1].post_processor = None  # which trims offsets
    encoding = both[1].encode("".join(parts), add_special_tokens=False)
    borders = [
        place
        for place in range(len(encoding.ids))
        if all(end <= encoding.offsets[place][0] for _, end in encoding.offsets[:place])
    ]
    assume(borders)  # a text of unknown characters alone has no tokens
    place = data.draw(st.sampled_from(borders))
    start = encoding.offsets[place][0]
    rest = Tokenizer(both[0]).encode_rest("".join(parts), start, encoding.ids[:place])
    assert rest == encoding.ids[place:]


@pytest.mark.parametrize(
    ("tokens", "text", "rest"),
    [
        ({"<a>": {}, "x<": {}}, "<a>two x<a>one", "one"),
        ({"<a>": {}, "<a><": {}}, "<a>two <a><a>one", "one"),
        ({"<a>": {"single_word": True}}, "<a> two<a>(one", "(one"),
        ({"<a><a>": {}}, "<a><a>two<a><a><a>one", "one"),
    ],
)
def test_what_another_token_covers_cuts_nothing(tokens: dict[str, dict[str, bool]], text: str, rest: str) -> None:
    """The last ``<a>`` is written there, and is none to the tokenizer, which puts a mark behind such tokens."""
    both = [Inner.from_str(trained("metaspace always")) for _ in range(2)]
    for inner in both:
        inner.add_tokens([AddedToken(each, normalized=False, **flags) for each, flags in tokens.items()])
    encoding, start = both[1].encode(text, add_special_tokens=False), len(text) - len(rest)
    place = next(place for place, (begin, _) in enumerate(encoding.offsets) if begin >= start)
    assert Tokenizer(both[0]).encode_rest(text, start, encoding.ids[:place]) == encoding.ids[place:]


def test_a_long_conversation_is_not_encoded_from_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = pair("byte-level", 1, False, 0)
    seen: list[str] = []
    encoding = Tokenizer._encoding
    monkeypatch.setattr(Tokenizer, "_encoding", lambda self, text: (seen.append(text), encoding(self, text))[1])
    history, messages = History(ours), [{"role": "user", "content": "one"}]
    for _ in range(20):
        tokens = history.encode(ours.render_chat(messages))
        assert tokens == ours.encode_chat(messages)
        history.add_answer([*ours.encode("two", add_special_tokens=False)], "two", ended=False)
        messages += [{"role": "assistant", "content": "two"}, {"role": "user", "content": "three"}]
    rests = [text for text in seen if text.startswith("<|assistant|>")]
    assert len(rests) == 19
    assert max(map(len, rests)) == len("<|assistant|>\ntwo<|end|>\n<|user|>\nthree<|end|>\n<|assistant|>\n")


def test_a_token_that_swallows_a_line_break_leaves_none_behind_an_answer() -> None:
    """It ends the answer, is shown, and takes the line break that the template puts behind it."""
    both = [Inner.from_str(trained("byte-level")) for _ in range(2)]
    for inner in both:
        inner.add_tokens([AddedToken("<done>", rstrip=True, special=False)])
    ours, library = Tokenizer(both[0]), both[1]
    history, done = History(ours), library.token_to_id("<done>")
    prompt = history.encode("one:")
    said = [*whole(library, "tw"), *whole(library, "o"), done]
    history.add_answer(said, "two<done>", ended=False)
    assert history.encode("one:two<done>\n\nHello:") == [*prompt, *said, *whole(library, "Hello:")]
