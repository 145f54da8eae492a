"""Text laws: pieces put together are the whole, nothing ends in half a character, templates render as in HF."""

from __future__ import annotations

import json
import sys
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers, processors

from runtime.text.chat_template import ChatTemplate
from runtime.text.template_data import ChatTemplateError
from runtime.text.template_files import read_chat_template, read_special_tokens
from runtime.text.tokenizer import TextStream, Tokenizer, TokenizerError
from tests.places import SHARED

HARD_TEXT = "naïve café 👩‍👩‍👧 日本語のテキスト नमस्ते é́ \n\n  two  spaces\ttab � 🇩🇪 end"


def byte_level() -> Tokenizer:
    """Every byte is a token of its own, so most characters are several."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Inner(models.BPE({token: index for index, token in enumerate([*alphabet, "th"])}, [("t", "h")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<|end|>"])
    return Tokenizer(inner)


def byte_fallback() -> Tokenizer:
    """SentencePiece's manner: a space mark in front of words, and byte tokens for what is not in the vocabulary."""
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{value:02X}>" for value in range(256)),
        "▁",
        *"abcdefghijklmnopqrst�",
        "▁a",
    ]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    inner = Inner(models.BPE(vocabulary, [("▁", "a")], unk_token="<unk>", byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.add_special_tokens(["<unk>", "<s>", "</s>"])
    return Tokenizer(inner)


@cache
def shared(name: str) -> Tokenizer:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"no {name} beside the repository")
    return Tokenizer.open(folder)


MADE = {"byte-level": byte_level(), "byte-fallback": byte_fallback()}
REAL = ["tokenizers/qwen2", "tokenizers/gpt2", "tokenizers/smollm", "models/stories260k"]


def pieces_of(tokenizer: Tokenizer, tokens: list[int], sizes: list[int], after: list[int]) -> list[str]:
    """What a stream returns for ``tokens`` fed ``sizes`` at a time, again and again, and at the end."""
    stream = TextStream(tokenizer, after)
    pieces, start = [], 0
    while start < len(tokens):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(stream.feed(tokens[start : start + size]))
        start += size
    return [*pieces, stream.flush()]


@pytest.mark.parametrize("name", MADE)
@settings(deadline=None)  # a busy machine is no failure
@given(text=st.text(max_size=40), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_pieces_put_together_are_the_whole(name: str, text: str, sizes: list[int]) -> None:
    tokenizer = MADE[name]
    tokens = tokenizer.encode(text)
    pieces = pieces_of(tokenizer, tokens, sizes, [])
    assert "".join(pieces) == tokenizer.decode_window(tokens)
    assert not any(piece.endswith("�") for piece in pieces[:-1] if "�" not in text)


@settings(deadline=None)  # a busy machine is no failure
@given(tokens=st.lists(st.integers(0, 260), max_size=30), sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_any_bytes_decode_in_pieces_as_at_once(tokens: list[int], sizes: list[int]) -> None:
    tokenizer = MADE["byte-level"]
    assert "".join(pieces_of(tokenizer, tokens, sizes, [])) == tokenizer.decode_window(tokens)


@settings(deadline=None)  # a busy machine is no failure
@given(tokens=st.lists(st.integers(0, 290), max_size=30), sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_fallback_text_does_not_depend_on_the_steps(tokens: list[int], sizes: list[int]) -> None:
    tokenizer = MADE["byte-fallback"]
    assert "".join(pieces_of(tokenizer, tokens, sizes, [])) == tokenizer.decode(tokens)


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("size", [1, 2, 7])
def test_real_tokenizers_decode_hard_text_in_pieces(name: str, size: int) -> None:
    tokenizer = shared(name)
    tokens = tokenizer.encode(HARD_TEXT)
    assert "".join(pieces_of(tokenizer, tokens, [size], [])) == tokenizer.decode_window(tokens)


@pytest.mark.parametrize("name", [*MADE, *REAL])
def test_an_answer_continues_its_prompt(name: str) -> None:
    tokenizer = MADE[name] if name in MADE else shared(name)
    tokens = tokenizer.encode("a cab at a dock 日本 a b")
    whole = tokenizer.decode_window(tokens)
    for cut in range(1, len(tokens)):
        before = tokenizer.decode_window(tokens[:cut])
        if not before.endswith("�"):
            assert before + tokenizer.decode(tokens[cut:], after=tokens[:cut]) == whole, cut


def test_a_character_waits_for_its_last_token() -> None:
    tokenizer = MADE["byte-level"]
    stream = TextStream(tokenizer)
    assert [stream.feed([token]) for token in tokenizer.encode("x日y")] == ["x", "", "", "日", "y"]


def test_a_newline_byte_is_shown_at_once() -> None:
    tokenizer = MADE["byte-fallback"]
    stream = TextStream(tokenizer)
    shown = [stream.feed([token]) for token in tokenizer.encode("a\n\na")]
    assert shown == ["a", "\n", "\n", "a"]


def test_one_wrong_byte_spoils_no_neighbour() -> None:
    tokenizer = MADE["byte-fallback"]
    first_byte = 3
    tokens = [first_byte + value for value in [*"日".encode(), 0xFF]]
    assert tokenizer.decode(tokens) == "日�"


def test_a_replacement_mark_that_is_text_stays_in_its_place() -> None:
    tokenizer = MADE["byte-fallback"]
    assert tokenizer.decode(tokenizer.encode("a�日�a")) == "a�日�a"


def test_special_tokens_and_unknown_ids_are_not_shown() -> None:
    tokenizer = MADE["byte-fallback"]
    a = tokenizer.encode("a a a")
    assert tokenizer.decode([1, *a[:1], 2, *a[1:], 9_999]) == "a a a"


def test_a_template_sees_what_hf_gives_it() -> None:
    source = (
        "{{ bos_token }}{% for m in messages %}\n    {% if m.role == 'skip' %}{% continue %}{% endif %}\n"
        "{{ m.role }}: {{ m.content | tojson }}\n{% generation %}!{% endgeneration %}{% endfor %}\n"
        "{% if add_generation_prompt %}{{ strftime_now('%%') }}>{% endif %}"
    )
    template = ChatTemplate(source, {"bos_token": "<s>"}, "test")
    messages = [{"role": "user", "content": "<b> 日"}, {"role": "skip", "content": ""}]
    assert template.render(messages) == '<s>user: "<b> 日"\n!%>'


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('no system role') }}", "test refuses the messages (user): no system role;"),
        ("{{ messages[0].content + 1 }}", "test refuses the messages (user): can only concatenate str"),
        ("{{ messages.__class__.__mro__ }}", "is unsafe"),
        ("{{ messages.append(1) }}", "attribute 'append' of 'list' object is unsafe"),
        ("{{ messages | indent }}", "test refuses the messages (user): 'list' object has no attribute 'splitlines'"),
        ("{% if %}", "test is not a valid chat template"),
    ],
)
def test_a_bad_template_is_refused_in_one_line(source: str, message: str) -> None:
    with pytest.raises(ChatTemplateError) as caught:
        ChatTemplate(source, {}, "test").render([{"role": "user", "content": "hi"}])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_templates_are_found_where_checkpoints_keep_them(tmp_path: Path) -> None:
    assert read_chat_template(tmp_path) is None
    entries = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "from the list"}]
    config = {"chat_template": entries, "bos_token": {"content": "<s>"}, "eos_token": None, "model_max_length": 5}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"bos_token": "old", "pad_token": "<pad>"}))
    listed = read_chat_template(tmp_path)
    assert listed is not None
    hello = [{"role": "user", "content": "hello"}]
    assert listed.render(hello) == "from the list"
    assert read_special_tokens(tmp_path) == {"bos_token": "old", "pad_token": "<pad>"}  # as in transformers
    (tmp_path / "chat_template.jinja").write_text("from the file")
    own = read_chat_template(tmp_path)
    assert own is not None
    assert own.render(hello) == "from the file"


def test_a_list_without_a_default_names_what_it_has(tmp_path: Path) -> None:
    entries = [{"name": "rag", "template": ""}, {"name": "tool_use", "template": ""}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": entries}))
    with pytest.raises(ChatTemplateError, match=r"no chat template named 'default'.*rag, tool_use"):
        read_chat_template(tmp_path)


@cache
def tokenizer_of_transformers() -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast.from_pretrained(SHARED / "tokenizers/qwen2")


CONVERSATIONS = [
    [{"role": "user", "content": "Hello, 'world' & <you>"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Zeit? 日本 👩‍👧"}],
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b\n\n"},
        {"role": "user", "content": " c "},
    ],
]


@pytest.mark.parametrize("messages", CONVERSATIONS, ids=["user", "system", "turns"])
def test_chat_tokens_equal_those_of_transformers(messages: list[dict[str, str]]) -> None:
    ours = shared("tokenizers/qwen2")
    theirs = tokenizer_of_transformers()
    expected = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert ours.template is not None
    assert ours.template.render(messages) == expected
    assert ours.encode_chat(messages) == theirs(expected)["input_ids"]


def test_missing_and_broken_tokenizers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json in .*; save one there with transformers"):
        Tokenizer.open(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is not a tokenizer"):
        Tokenizer.open(tmp_path)


def test_chat_without_a_template_and_broken_text_are_refused() -> None:
    with pytest.raises(TokenizerError, match="no chat template"):
        MADE["byte-level"].encode_chat([{"role": "user", "content": "hi"}])
    with pytest.raises(TokenizerError, match="not valid Unicode"):
        MADE["byte-level"].encode("\udce4")


PROCESSORS = {
    "none": None,
    "front": processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 1)]),
    "both": processors.RobertaProcessing(("</s>", 2), ("<s>", 1)),
    "two": processors.TemplateProcessing("<s> <s> $A </s>", "$A $B", [("<s>", 1), ("</s>", 2)]),
    "offsets": processors.ByteLevel(trim_offsets=True),
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("text", ["", "a cat", "<s>a</s>", "x" * 5000])
def test_special_tokens_around_a_text_are_those_of_the_library(name: str, text: str) -> None:
    inner = byte_fallback()._inner
    inner.post_processor = PROCESSORS[name]
    expected = inner.encode(text).ids
    assert Tokenizer(inner).encode(text) == expected


def test_other_threads_run_while_a_text_is_encoded() -> None:
    """A server would stand still meanwhile. Here another thread runs only if the lock is released."""
    tokenizer, text = byte_level(), "the cat " * 5000
    counted, over = [0], threading.Event()

    def count() -> None:
        while not over.is_set():
            counted[0] += 1
            time.sleep(0)

    before, thread = sys.getswitchinterval(), threading.Thread(target=count)
    sys.setswitchinterval(1000)
    try:
        thread.start()
        seen = counted[0]
        assert any(tokenizer.encode(text) and counted[0] > seen for _ in range(200))
    finally:
        over.set()
        sys.setswitchinterval(before)
        thread.join()
