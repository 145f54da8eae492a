"""A cache that is another model's: its rows stay the lender's, and own rows last until the lender changes."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.errors import ContextFullError
from runtime.models.borrowed_cache import BorrowedCache
from runtime.models.kv_cache import KVCache


@pytest.fixture
def lender() -> KVCache:
    """Six rows of three layers; row r of the tokens is r."""
    cache = KVCache([(1, 4)] * 6, [np.float32] * 6, 16)
    for number, array in enumerate(cache.arrays):
        array[...] = number * 100 + np.arange(16)[:, None]
    cache.append(range(6))
    return cache


@pytest.fixture
def cache(lender: KVCache) -> BorrowedCache:
    return BorrowedCache(lender, [0, 1, 4, 5])


def test_it_sees_the_lenders_rows_in_the_lenders_memory(lender: KVCache, cache: BorrowedCache) -> None:
    assert cache.tokens.tolist() == list(range(6))
    assert [
        np.shares_memory(ours, lender.arrays[member]) for ours, member in zip(cache.arrays, (0, 1, 4, 5), strict=True)
    ]
    assert (cache.capacity, cache.nbytes) == (16, 0)


def test_own_rows_follow_and_go_with_any_change_of_the_lender(lender: KVCache, cache: BorrowedCache) -> None:
    for change in (lambda: lender.append([9]), lambda: lender.rollback(5), lender.release):
        held = lender.length
        cache.append([70, 71])
        assert (cache.length, cache.tokens[held:].tolist()) == (held + 2, [70, 71])
        assert lender.length == held
        change()
        assert cache.tokens.tolist() == lender.tokens.tolist()


def test_a_rollback_never_reaches_the_lenders_rows(lender: KVCache, cache: BorrowedCache) -> None:
    cache.append([70, 71, 72])
    cache.rollback(8)
    assert cache.tokens.tolist() == [*range(6), 70, 71]
    cache.rollback(2)
    assert (cache.length, lender.length) == (6, 6)
    assert (cache.can_reach(6), cache.can_reach(5)) == (True, False)


def test_kept_rows_of_a_tree_are_moved_together(lender: KVCache, cache: BorrowedCache) -> None:
    before = [array[..., :6, :].copy() for array in lender.arrays]
    cache.append([70, 71, 72, 73])
    cache.rollback(7, [8, 9])
    assert cache.tokens[6:].tolist() == [70, 72, 73]
    assert cache.arrays[0][0, 0, 6:9, 0].tolist() == [6, 8, 9]
    assert lender.arrays[2][0, 0, 6:9, 0].tolist() == [206, 207, 208]  # of a layer that it does not have
    for old, array in zip(before, lender.arrays, strict=True):
        np.testing.assert_array_equal(old, array[..., :6, :])


def test_room_is_the_lenders(lender: KVCache, cache: BorrowedCache) -> None:
    cache.append([70])
    cache.require(9)
    with pytest.raises(ContextFullError, match="10 more rows do not fit a cache of 16 that holds 7"):
        cache.require(10)
    lender.resize(32)
    assert cache.capacity == 32
    assert cache.arrays[0].shape[2] == 32
