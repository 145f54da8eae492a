"""The KV cache: lengths move, accepted rows are moved together, nothing aliases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.cache import ContextFullError, KVCache


def _filled(capacity: int, rows: int) -> KVCache:
    """Every number in the cache differs from every other; row r of the tokens is r."""
    cache = KVCache([(2, 4), (2, 4), (1, 8)], [np.float32, np.float32, np.float16], capacity)
    for number, array in enumerate(cache.arrays):
        array[...] = (number * 1000 + np.arange(array.size)).reshape(array.shape)
    cache.append(range(rows))
    return cache


def test_arrays_have_the_shapes_of_the_graph_and_do_not_alias() -> None:
    cache = KVCache([(2, 4), (2, 4), (1, 8)], [np.float32, np.float32, np.float16], 16)
    assert [array.shape for array in cache.arrays] == [(1, 2, 16, 4), (1, 2, 16, 4), (1, 1, 16, 8)]
    assert cache.arrays[2].dtype == np.float16
    assert cache.nbytes == 2 * 2 * 16 * 4 * 4 + 16 * 8 * 2
    cache.arrays[0][...] = 1
    assert not cache.arrays[1].any()


def test_rollback_of_a_chain_moves_no_byte() -> None:
    cache = _filled(16, 10)
    before = [array.copy() for array in cache.arrays]
    cache.rollback(5, [5, 6, 7])
    assert cache.length == 8
    assert all(np.array_equal(left, right) for left, right in zip(before, cache.arrays, strict=True))


def test_rollback_moves_accepted_tree_rows_together() -> None:
    cache = _filled(16, 10)
    before = [array.copy() for array in cache.arrays]
    cache.rollback(6, [6, 8])
    assert cache.length == 8
    assert list(cache.tokens) == [0, 1, 2, 3, 4, 5, 6, 8]
    for old, new in zip(before, cache.arrays, strict=True):
        assert np.array_equal(new[:, :, 7], old[:, :, 8])
        assert np.array_equal(new[:, :, :7], old[:, :, :7])


@given(st.data())
def test_rollback_keeps_exactly_the_named_rows(data: st.DataObject) -> None:
    held = data.draw(st.integers(0, 12))
    length = data.draw(st.integers(0, held))
    rows = sorted(data.draw(st.sets(st.integers(length, held - 1)))) if length < held else []
    cache = _filled(12, held)
    expected = [array[:, :, [*range(length), *rows]].copy() for array in cache.arrays]
    cache.rollback(length, rows)
    assert list(cache.tokens) == [*range(length), *rows]
    for wanted, array in zip(expected, cache.arrays, strict=True):
        assert np.array_equal(array[:, :, : cache.length], wanted)


def test_a_full_cache_says_the_numbers() -> None:
    cache = _filled(8, 6)
    cache.require(2)
    with pytest.raises(ContextFullError, match="3 more rows do not fit a cache of 8 that holds 6") as error:
        cache.require(3)
    assert isinstance(error.value, ValueError)
