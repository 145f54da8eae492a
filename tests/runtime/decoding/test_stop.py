"""Stop rules: an answer ends at the same token however steps divide it, and no stop string is ever shown."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.manifest import PocketspecError
from runtime.decoding.stop import Cut, StopRule, StopText
from runtime.text.tokenizer import TextStream
from tests.runtime.text.test_tokenizer import MADE

TOKENIZER = MADE["byte-level"]


def divided(items: list[int] | str, sizes: list[int]) -> list[list[int] | str]:
    parts, start = [], 0
    while start < len(items):
        size = sizes[len(parts) % len(sizes)]
        parts.append(items[start : start + size])
        start += size
    return parts


def run(rule: StopRule, tokens: list[int], sizes: list[int]) -> tuple[list[int], str | None]:
    """The answer that ``tokens`` become when steps of ``sizes`` bring them."""
    answer: list[int] = []
    for part in divided(tokens, sizes):
        cut = rule.cut([*answer, *part], len(part))
        answer.extend(part[: cut.keep])
        if cut.reason is not None:
            return answer, cut.reason
    return answer, None


def test_the_docstring_example() -> None:
    assert StopRule(eos=[0]).cut([5, 6, 0, 7], 3) == Cut(2, "eos")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (StopRule(), ([1, 2, 3, 4, 5], None)),
        (StopRule(eos=[4, 9]), ([1, 2, 3, 4], "eos")),
        (StopRule(max_new_tokens=2), ([1, 2], "length")),
        (StopRule(max_new_tokens=5), ([1, 2, 3, 4, 5], "length")),
        (StopRule(eos=[3], max_new_tokens=3), ([1, 2, 3], "eos")),
        (StopRule(eos=[3], max_new_tokens=2), ([1, 2], "length")),
    ],
)
@pytest.mark.parametrize("sizes", [[1], [2], [5], [1, 3]])
def test_end_tokens_and_length(rule: StopRule, expected: tuple[list[int], str | None], sizes: list[int]) -> None:
    assert run(rule, [1, 2, 3, 4, 5], sizes) == expected


WORDS = st.text("ab日", max_size=12)


@settings(deadline=None)  # a busy machine is no failure
@given(text=WORDS, strings=st.lists(st.text("ab日", min_size=1, max_size=3), max_size=3), data=st.data())
def test_answers_end_at_the_same_token_however_steps_divide_them(
    text: str, strings: list[str], data: st.DataObject
) -> None:
    tokens = TOKENIZER.encode(text)
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))

    def rule() -> StopRule:
        return StopRule(strings=strings, stream=TextStream(TOKENIZER))

    one_by_one = run(rule(), tokens, [1])
    assert run(rule(), tokens, sizes) == one_by_one
    assert (one_by_one[1] == "stop") == any(string in text for string in strings)


@settings(deadline=None)  # a busy machine is no failure
@given(text=WORDS, strings=st.lists(st.text("ab日", min_size=1, max_size=4), max_size=3), data=st.data())
def test_shown_text_ends_before_the_first_stop_string(text: str, strings: list[str], data: st.DataObject) -> None:
    parts = divided(text, data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    stop = StopText(strings)
    shown = "".join([*(stop.feed(part) for part in parts), stop.flush()])  # type: ignore[arg-type]
    ends = [(text.index(string) + len(string), text.index(string)) for string in strings if string in text]
    assert shown == (text[: min(ends)[1]] if ends else text)
    assert (stop.found is not None) == bool(ends)


def test_text_that_may_become_a_stop_string_waits() -> None:
    stop = StopText(["END", "\n\n"])
    assert [stop.feed(part) for part in ("a E", "Nx", "b\n", "c\n", "\nd", "e")] == ["a ", "ENx", "b", "\nc", "", ""]
    assert stop.found == "\n\n"


def test_a_stop_string_across_token_borders_cuts_after_its_last_token() -> None:
    tokens = TOKENIZER.encode("xxthe日yy")
    rule = StopRule(strings=["he日"], stream=TextStream(TOKENIZER))
    answer, reason = run(rule, tokens, [4])
    assert (TOKENIZER.decode(answer), reason) == ("xxthe日", "stop")


def test_impossible_rules_are_refused() -> None:
    with pytest.raises(PocketspecError, match="max_new_tokens is 0; it must be at least 1"):
        StopRule(max_new_tokens=0)
    with pytest.raises(PocketspecError, match="must not be empty"):
        StopText([""])
