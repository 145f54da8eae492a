"""What may be given for a prompt and a number: every library's own, and nothing that merely looks like it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.manifest import PocketspecError
from memory import Request
from runtime.decoding.sampling import SamplingError, SamplingParams
from runtime.decoding.stop import StopRule, Stops
from runtime.engine import Engine
from runtime.speculation.request import PLAIN, Speculation
from runtime.text.tokenizer import Tokenizer, TokenizerError
from tests.runtime.tiny_bundle import END, VOCAB


class Scalar:
    """A number of another library: torch's have no class in common with Python's."""

    dtype = "int64"

    def __init__(self, value: Any) -> None:
        self._value = value

    def tolist(self) -> Any:
        return self._value


def tokens_of(engine: Engine, prompt: Any, **settings: Any) -> list[int]:
    settings = {"max_new_tokens": 6, "ignore_eos": True, **settings}
    return [token for chunk in engine.generate(prompt, **settings) for token in chunk.step.tokens]


@pytest.mark.parametrize(
    "made",
    [
        tuple,
        np.array,
        lambda ids: np.array(ids, np.uint8),
        lambda ids: list(np.array(ids, np.int32)),
        lambda ids: [Scalar(token) for token in ids],
        Scalar,
        lambda ids: range(ids[0], ids[-1] + 1),
    ],
)
def test_whole_numbers_of_every_library_are_ids(engine: Engine, made: Any) -> None:
    ids = [3, 4, 5, 6]
    expected = tokens_of(engine, ids)
    assert tokens_of(engine, made(ids)) == expected
    assert [type(token) for token in engine.encode(made(ids))] == [int] * 4
    steps = engine.steps(made(ids), stop=StopRule(max_new_tokens=np.int64(6)))
    assert [token for step in steps for token in step.tokens] == expected


def test_tensors_are_ids(engine: Engine) -> None:
    torch = pytest.importorskip("torch")
    for prompt in (torch.tensor([3, 4, 5]), list(torch.tensor([3, 4, 5]))):
        assert engine.encode(prompt) == [3, 4, 5]
    with pytest.raises(TokenizerError, match="a prompt is a text"):
        engine.encode(torch.tensor([True, False]))


NO_PROMPTS = [
    (b"hello", "b'hello' of type bytes is no prompt"),
    (None, "None is no prompt"),
    (5, "5 of type int is no prompt"),
    (np.int64(5), "is no prompt"),
    ({"role": "user", "content": "Hi"}, "one message without a list around it is no prompt"),
    ({1, 2}, "of type set is no prompt"),
    (iter([1, 2]), "is no prompt"),
    ([True, False], "item 0 of the prompt is True of type bool"),
    (np.array([True, False]), "item 0 of the prompt is True of type bool"),
    ([1, 2.0], "item 1 of the prompt is 2.0 of type float"),
    (np.array([1.0, 2.0]), "item 0 of the prompt is 1.0 of type float"),
    ([[1, 2]], r"item 0 of the prompt is \[1, 2\] of type list"),
    (np.array([[1, 2]]), r"item 0 of the prompt is \[1, 2\] of type list"),
    ([1, None], "item 1 of the prompt is None"),
    (["Hello"], "item 0 of the prompt is 'Hello' of type str"),
    ([1, {"role": "user", "content": "Hi"}], "the prompt mixes messages and token ids"),
]


@pytest.mark.parametrize(("prompt", "told"), NO_PROMPTS, ids=lambda value: repr(value)[:18])
def test_everything_else_is_refused_with_what_a_prompt_is(engine: Engine, prompt: Any, told: str) -> None:
    for use in (engine.generate, engine.encode):
        with pytest.raises(TokenizerError, match=f"{told}.*; a prompt is a text, a list of messages such as"):
            use(prompt)


@pytest.mark.parametrize("prompt", ["Hello", [{"role": "user", "content": "Hi"}], None])
def test_steps_take_ids_alone(engine: Engine, prompt: Any) -> None:
    with pytest.raises(TokenizerError, match="a prompt is a text"):
        engine.steps(prompt, stop=StopRule())


@pytest.mark.parametrize("token", [VOCAB, -1, 2**40, -(2**70), 2**31])
def test_tokens_that_the_model_lacks_are_refused_before_anything_runs(engine: Engine, token: int) -> None:
    """The check comes before the kernels, so that it is the same with all."""
    held = engine.target.cache.tokens.tolist()
    told = (
        f"token {token} at place 2 of the prompt is beyond the model's vocabulary of {VOCAB} tokens, 0 to {VOCAB - 1}"
    )
    for use in (engine.generate, engine.encode, lambda ids: engine.steps(ids, stop=StopRule())):
        with pytest.raises(TokenizerError, match=told):
            use([1, 2, token])
    assert engine.target.cache.tokens.tolist() == held
    with pytest.raises(TokenizerError, match=told):
        tokens_of(engine, [1, 2], when_full=lambda tokens, capacity: [1, 2, token], max_new_tokens=None)


def test_a_token_of_the_tokenizer_that_the_model_lacks_is_named(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = engine.tokenizer._inner
    larger = type(inner).from_str(inner.to_str())
    larger.add_special_tokens(["<picture>"])
    tokenizer = Tokenizer(larger, engine.tokenizer.template)
    monkeypatch.setattr(engine, "tokenizer", tokenizer)
    monkeypatch.setattr(engine._answering, "_tokenizer", tokenizer)
    for settings in ({"raw": True}, {}):
        with pytest.raises(TokenizerError, match=rf"token {VOCAB} \('<picture>'\) at place"):
            engine.generate("The <picture> shows", **settings)


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "5", float("nan"), np.array([1, 2])], ids=repr)
def test_a_length_that_is_none_is_refused(engine: Engine, count: Any) -> None:
    with pytest.raises(PocketspecError, match=r"max_new_tokens is .*; it must be (at least 1|a whole number)"):
        engine.generate("x", max_new_tokens=count)


def test_sampling_takes_numbers_of_every_library() -> None:
    given = SamplingParams(
        np.float32(0.5), np.int64(4), Fraction(1, 2), np.float64(0.25), Scalar(1), np.uint64(2**64 - 1)
    )
    assert given == SamplingParams(0.5, 4, 0.5, 0.25, 1.0, 2**64 - 1)
    assert [type(value) for value in vars(given).values()] == [float, int, float, float, float, int]


@pytest.mark.parametrize(
    "given",
    [
        {"temperature": np.nan},
        {"temperature": np.float32(np.inf)},
        {"temperature": None},
        {"temperature": np.array([0.5, 0.6])},
        {"top_p": True},
        {"seed": np.bool_(True)},
        {"seed": 1.0},
        {"seed": "1"},
        {"top_k": None},
    ],
    ids=str,
)
def test_what_is_no_number_is_named(given: dict[str, Any]) -> None:
    (name,) = given
    with pytest.raises(SamplingError, match=f"^{name} is "):
        SamplingParams(**given)


@pytest.mark.parametrize("stop", [5, b"END", [5], [b"END"], {"END"}, ["ok", "\ud800"], "", [""]], ids=repr)
def test_stops_that_are_no_texts_are_refused(engine: Engine, stop: Any) -> None:
    with pytest.raises(PocketspecError, match="stop"):
        engine.generate("x", stop=stop)


def test_one_stop_string_needs_no_list(engine: Engine) -> None:
    whole = "".join(chunk.text for chunk in engine.generate("Hello", max_new_tokens=40, speculation=PLAIN))
    stop = whole[17:20]
    for given in (stop, [stop], (stop, "never said")):
        text = "".join(chunk.text for chunk in engine.generate("Hello", max_new_tokens=40, stop=given))
        assert text == whole[: whole.index(stop)]


HOT: dict[str, Any] = {
    "sampling": SamplingParams(temperature=3.0, seed=1),
    "max_new_tokens": 320,
    "ignore_eos": True,
}


@pytest.fixture(scope="module")
def whole(engine: Engine) -> list[int]:
    """An answer in which the end token comes, and does not end it."""
    return tokens_of(engine, "Hello there", speculation=PLAIN, **HOT)


@pytest.mark.parametrize("speculation", [PLAIN, Speculation("near", 6), Speculation("suffix+near", 4)], ids=str)
@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("behind", [0, 2])
def test_a_stop_string_may_name_special_tokens(
    engine: Engine, whole: list[int], speculation: Speculation, before: int, behind: int
) -> None:
    """Here the end token, which does not end the answer; alone, and with text before and behind it."""
    place = whole.index(END)
    assert place > 3
    texts = ["<|end|>" if token == END else engine.tokenizer.token(token) for token in whole]
    texts = [text.replace("Ġ", " ") for text in texts]
    stop = "".join(texts[place - before : place + behind + 1])
    chunks = list(engine.generate("Hello there", stop=stop, speculation=speculation, **HOT))
    assert chunks[-1].step.finish == "stop"
    assert [token for chunk in chunks for token in chunk.step.tokens] == whole[: place + behind + 1]
    assert "".join(chunk.text for chunk in chunks) == "".join(texts[: place - before])


def test_a_special_token_is_no_part_of_a_stop_string_that_does_not_name_it(engine: Engine) -> None:
    """``end`` is in ``<|end|>``, but nobody said it; and text around it stands side by side, as it is shown."""
    tokenizer = engine.tokenizer
    a, b = tokenizer.encode("ab")
    for stop, found in (("end", False), ("<|end|>", True), ("ab", True), ("a<|end|>b", True), ("b<|end|>", False)):
        stops = Stops(tokenizer, stop)
        rule = StopRule(strings=stops.strings, stream=stops.stream())
        tokens = [a, END, b]
        reasons = [rule.cut(tokens[: place + 1], 1).reason for place in range(3)]
        assert ("stop" in reasons) == found, stop


def test_special_tokens_written_out_as_text_stop_as_well(engine: Engine) -> None:
    stops = Stops(engine.tokenizer, "<|end|>")
    shown = stops.text()
    text = "say <|end|> now"
    assert "".join([*(shown.feed(character) for character in text), shown.flush()]) == "say "


def test_the_context_of_an_engine_is_still_its_own(random_bundle: Path) -> None:
    with Engine.open(random_bundle, Request(threads=1, context=64)) as engine:
        with pytest.raises(PocketspecError, match="a prompt of 64 tokens"):
            engine.generate(np.ones(64, np.int64))
        with pytest.raises(PocketspecError, match="a prompt of 0 tokens"):
            engine.generate([])
