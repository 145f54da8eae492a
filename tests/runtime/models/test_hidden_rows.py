"""Hidden rows that are kept follow the text: whatever is written, rolled back or lost, what is held is right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runtime.models.hidden_rows import HiddenRows

CAPACITY = 7


def row(token: int) -> list[float]:
    return [token, -token]


@given(st.lists(st.tuples(st.integers(1, 12), st.lists(st.booleans(), max_size=12)), max_size=12))
def test_rows_are_those_of_a_list(steps: Sequence[tuple[int, list[bool]]]) -> None:
    """Each step writes some rows, then keeps some of them; rows that are dropped may not come back."""
    hidden, text, token = HiddenRows(2, CAPACITY), list[int](), 0
    for count, wanted in steps:
        start, fresh = len(text), list(range(token, token + count))
        token += count
        parts = [np.array([[each] for each in fresh], np.float32), np.array([[-each] for each in fresh], np.float32)]
        hidden.write(start, parts)
        kept = [place for place, keep in enumerate(wanted[:count]) if keep]
        hidden.rollback(start, [start + place for place in kept])
        text += [fresh[place] for place in kept]
        held = [place for place in kept if place >= count - CAPACITY]
        assert len(text) - hidden.first >= len(held), "rows that were just written are gone"
        assert hidden.end == len(text)
        assert hidden.rows(hidden.first, hidden.end).tolist() == [row(each) for each in text[hidden.first :]]


def test_a_ring_holds_as_many_as_it_can() -> None:
    hidden = HiddenRows(1, CAPACITY)
    hidden.write(0, [np.arange(20, dtype=np.float32)[:, None]])
    assert (hidden.first, hidden.end) == (20 - CAPACITY, 20)
    assert hidden.rows(13, 20)[:, 0].tolist() == list(range(13, 20))


def test_text_from_elsewhere_has_no_rows() -> None:
    hidden = HiddenRows(1, CAPACITY)
    hidden.write(0, [np.ones((3, 1), np.float32)])
    hidden.claim(5)
    assert (hidden.first, hidden.end) == (5, 5)
    hidden.write(5, [np.ones((2, 1), np.float32)])
    assert (hidden.first, hidden.end) == (5, 7)


class Reader:
    def __init__(self) -> None:
        self.told: list[int] = []

    def read_before(self, lost: int) -> None:
        self.told.append(lost)


def test_readers_are_told_before_rows_are_lost_and_not_kept_alive() -> None:
    hidden, reader = HiddenRows(1, CAPACITY), Reader()
    hidden.readers.add(reader)
    told: Any = reader.told
    for start in range(0, 12, 3):
        hidden.make_room(3)
        hidden.write(start, [np.ones((3, 1), np.float32)])
    assert told == [2, 5]
    del reader
    assert not hidden.readers
