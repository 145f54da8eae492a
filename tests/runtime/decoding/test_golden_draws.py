"""The same seed gives the same text on every processor; and sums and powers are what they are called."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.decoding.exact_math import COLUMNS, LOG2_E, column_sums, raise_two, total
from tests.runtime.decoding.golden_draws import FILE, golden


def test_draws_and_texts_are_the_golden_ones() -> None:
    expected, found = json.loads(FILE.read_text(encoding="utf-8")), golden()
    assert found == expected
    assert found["text, plain"] == found["text, suffix"]
    assert len({tuple(text) for name, text in found.items() if name.startswith("text")}) == 3, "rules differ"


@pytest.mark.parametrize("count", [0, 1, 7, 32768, 32769, 70_000])
def test_powers_are_good_to_two_last_places(count: int) -> None:
    exponents = np.linspace(-30, 0, count, dtype=np.float32)
    powers = exponents.copy()
    raise_two(powers, 1.0)
    exact = 2.0 ** exponents.astype(np.float64)
    np.testing.assert_allclose(powers, exact, rtol=2.0**-22)


def test_the_top_is_one_and_what_is_far_below_is_zero() -> None:
    logits = np.float32([0, -1, -86, -87.5, -1000, -1e38, -np.inf])
    raise_two(logits, LOG2_E)
    assert logits[0] == 1
    assert logits[1] == pytest.approx(math.exp(-1), rel=1e-6)
    assert logits[2] == pytest.approx(math.exp(-86), rel=1e-4)
    assert logits[3:].tolist() == [0, 0, 0, 0]


@given(st.integers(0, 3000), st.integers(0, 99), st.sampled_from([np.float32, np.float64]))
def test_sums_are_near_those_that_round_once(size: int, seed: int, dtype: type) -> None:
    values = np.random.default_rng(seed).random(size).astype(dtype)
    assert total(values) == pytest.approx(math.fsum(values.tolist()), rel=1e-14)
    if size >= COLUMNS:
        assert column_sums(values)[5] == pytest.approx(math.fsum(values[5::COLUMNS].tolist()), rel=1e-14)


@pytest.mark.parametrize("rows", [*range(1, 8), 63, 64, 65, 127, 128, 200])
def test_every_number_counts_once(rows: int) -> None:
    """Powers of two in one column, of which each has its own bit."""
    values = np.zeros(rows * COLUMNS + 3)
    places = np.arange(rows) * COLUMNS + 1
    for first in range(0, rows, 50):
        values[:] = 0
        values[places[first : first + 50]] = 2.0 ** np.arange(len(places[first : first + 50]))
        assert column_sums(values)[1] == 2.0 ** len(places[first : first + 50]) - 1
