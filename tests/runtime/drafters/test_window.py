"""A window shows the latest tokens, at least half of what it could, and moves by half of itself."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.drafters.window import window_of, window_start


@given(st.integers(1, 3000), st.integers(2, 300))
def test_a_window_shows_the_latest_tokens_and_at_least_half_of_its_size(length: int, size: int) -> None:
    tokens = np.arange(length, dtype=np.int32)
    shown = window_of(tokens, size)
    assert shown[-1] == length - 1
    assert len(shown) <= size
    assert len(shown) == length if length <= size else len(shown) > size // 2 - 1
    assert np.shares_memory(shown, tokens)


@given(st.integers(2, 300))
def test_a_text_that_grows_moves_it_once_in_half_a_window(size: int) -> None:
    starts = [window_start(length, size) for length in range(1, 10 * size)]
    moves = [after - before for before, after in pairwise(starts)]
    assert set(moves) <= {0, size // 2}
    assert sum(move > 0 for move in moves) <= 9 * size / (size // 2) + 1


@pytest.mark.parametrize(("length", "start"), [(1, 0), (10, 0), (11, 5), (15, 5), (16, 10), (20, 10)])
def test_the_example(length: int, start: int) -> None:
    assert window_start(length, 10) == start
