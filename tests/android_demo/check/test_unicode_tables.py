"""The app's tables of characters are those of the tokenizers library that is installed."""

from __future__ import annotations

import random

import pytest

from android_demo.check.unicode_tables import TEXT, files, signed, written

_DIGITS = {
    digit: number for number, digit in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
}


def _read(text: str) -> list[int]:
    numbers, number, shift = [], 0, 0
    for digit in text:
        number |= (_DIGITS[digit] % 32) << shift
        shift += 5
        if _DIGITS[digit] < 32:
            numbers.append(number)
            number = shift = 0
    return numbers


def test_numbers_of_any_size_are_read_back() -> None:
    draw = random.Random(0)
    numbers = [0, 31, 32, 1023, 1024, 0x10FFFF, *(draw.randrange(1 << draw.randint(1, 21)) for _ in range(200))]
    assert _read("".join(map(written, numbers))) == numbers
    assert _read("".join(signed(number) + signed(-number) for number in (0, 1, 500))) == [0, 0, 2, 1, 1000, 999]


@pytest.mark.slow
def test_the_tables_are_the_librarys() -> None:
    again = "python -m android_demo.check.unicode_tables"
    for name, text in files().items():
        assert (TEXT / name).read_text(encoding="utf-8") == text, f"the library has changed; {again} makes {name} again"
