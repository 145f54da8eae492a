"""Text that is not trusted cannot do anything to a terminal, and text that is harmless stays as it is."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from runtime.text.visible import visible, visible_line
from tests.runtime.text.test_tokenizer import HARD_TEXT

anything = st.text(st.characters())


@given(anything)
def test_no_control_character_is_left(text: str) -> None:
    shown = visible(text)
    assert all(unicodedata.category(character) != "Cc" or character in "\n\t" for character in shown)
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")
    shown.encode()


@given(anything, anything)
def test_parts_are_shown_as_in_the_whole(first: str, second: str) -> None:
    assert visible(first) + visible(second) == visible(first + second)


def test_harmless_text_stays() -> None:
    assert visible(HARD_TEXT) == HARD_TEXT


def test_what_is_shown_instead() -> None:
    assert visible("\x1b]0;title\x07 \r\x7f\x9b2J\u202e\ud800") == "␛]0;title␇ ␍␡<9B>2J<202E>\N{REPLACEMENT CHARACTER}"


@given(anything)
def test_a_line_is_one_short_line(text: str) -> None:
    line = visible_line(text)
    assert len(line) <= 80
    assert len(line.splitlines()) <= 1
