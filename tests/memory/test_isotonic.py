"""Isotonic regression, against the law that defines it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from memory.isotonic import nearest_rising


@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(0.1, 10)), min_size=1, max_size=20))
def test_it_is_the_nearest_sequence_that_never_falls(points: list[tuple[float, float]]) -> None:
    values, weights = map(list, zip(*points, strict=True))
    found = nearest_rising(values, weights)
    assert all(low <= high for low, high in pairwise(found))
    np.testing.assert_allclose(found, isotonic_regression(values, weights=weights).x, atol=1e-9)


def test_without_weights_all_values_count_alike() -> None:
    assert nearest_rising([1, 3, 2, 4]) == pytest.approx([1, 2.5, 2.5, 4])
    assert nearest_rising([]) == []
