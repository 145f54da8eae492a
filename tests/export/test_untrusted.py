"""JSON of strangers takes time and memory in proportion to its size, whatever is in it."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from export.untrusted import UntrustedError, parse_json, parse_own_json


def peak_of(text: str) -> int:
    """The most bytes that reading ``text`` takes at once, beside ``text``."""
    tracemalloc.start()
    try:
        parse_json(text)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("piece", ["a", '\\"', "\\u00e9", "é"])
def test_a_long_text_takes_no_more_memory_than_itself_a_few_times(piece: str) -> None:
    text = json.dumps({"a": 1})[:-1] + f', "text": "{piece * 100_000}"}}'
    assert peak_of(text) < 10 * len(text.encode()) + 100_000


def test_a_text_without_an_end_is_read_once() -> None:
    """A scanner that looks for the end from every quotation mark anew needs hours for this."""
    with pytest.raises(UntrustedError, match="is not JSON"):
        parse_json('{"a": "' + '\\"' * 2_000_000)


def test_a_key_that_comes_twice_among_many_is_found() -> None:
    """Counting every key among all others needs minutes for this."""
    keys = ", ".join(f'"{number}": 0' for number in range(200_000))
    with pytest.raises(UntrustedError, match="has the key 'z' twice"):
        parse_own_json(f'{{{keys}, "z": 1, "z": 2}}')


def test_brackets_in_texts_are_no_depth() -> None:
    nested = ["[" * 100, '\\"[' * 100, {"[{": "\\"}]
    assert parse_json(json.dumps(nested)) == nested
    for text in ("[" * 65, '["\\\\",' * 65, '{"\\"":' * 65):
        with pytest.raises(UntrustedError, match="nested more than"):
            parse_json(text)
