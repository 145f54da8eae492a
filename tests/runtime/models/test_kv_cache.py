"""The KV cache: lengths move, accepted rows are moved together, nothing aliases."""

from __future__ import annotations

import errno
import mmap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.meter import read_memory
from runtime.errors import ContextFullError
from runtime.models.kv_cache import KVCache
from runtime.process.page_memory import Pages


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


def _random(capacity: int, held: int, first_rows: int | None = None, growth: int = 0) -> KVCache:
    """Holds ``held`` rows of random numbers, and zeros behind them; growing where it has to."""
    cache = KVCache([(2, 4), (2, 4), (1, 8)], [np.float32, np.float32, np.float16], capacity, first_rows, growth)
    cache.require(held)
    for number, array in enumerate(cache.arrays):
        heads, size = array.shape[1], array.shape[3]
        array[0, :, :held] = np.random.default_rng(number).standard_normal((heads, held, size))
    cache.append(range(held))
    return cache


def _held(cache: KVCache) -> list[np.ndarray]:
    return [array[:, :, : cache.length].copy() for array in cache.arrays]


def test_a_growing_cache_has_the_rows_that_were_asked_for() -> None:
    cache, whole = _random(100, 3, first_rows=10, growth=8), _random(100, 3)
    assert (cache.rows, whole.rows) == (10, 100)
    assert cache.nbytes * 10 == whole.nbytes
    addresses = [array.ctypes.data for array in cache.arrays]
    for rows, expected in ((7, 10), (8, 18), (30, 34), (97, 100)):
        cache.require(rows)
        assert cache.rows == expected
    with pytest.raises(ContextFullError, match="98 more rows do not fit a cache of 100 that holds 3"):
        cache.require(98)
    assert [array.ctypes.data for array in cache.arrays] == addresses
    assert all(np.array_equal(left, right) for left, right in zip(_held(cache), _held(whole), strict=True))


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=60))
def test_rows_that_are_rejected_do_not_make_it_grow(steps: list[tuple[int, int]]) -> None:
    """It has no more than the rows of the largest step, rounded up to a step of growth."""
    cache, most = KVCache([(1, 2)], [np.float32], 600, first_rows=16, growth=16), 0
    for rows, accepted in steps:
        cache.require(rows)
        held, most = cache.length, max(most, cache.length + rows)
        cache.append(range(rows))
        cache.rollback(held + min(accepted, rows))
        assert cache.rows <= max(16, -(-most // 16) * 16)


sizes = st.lists(st.integers(20, 4000), min_size=1, max_size=5)


@given(sizes)
def test_resizing_keeps_every_row_that_is_held(capacities: list[int]) -> None:
    cache = _random(100, 20)
    expected = _held(cache)
    for capacity in capacities:
        cache.resize(capacity)
        assert (cache.capacity, cache.rows, cache.length) == (capacity, capacity, 20)
        cache.require(capacity - 20)
        assert all(np.array_equal(left, right) for left, right in zip(_held(cache), expected, strict=True))
        assert cache.tokens.tolist() == list(range(20))
        for array in cache.arrays:
            array[:, :, 20:capacity] = 7  # all of it may be written
    cache.rollback(5, [6])
    assert all(np.array_equal(new[:, :, 5], old[:, :, 6]) for new, old in zip(_held(cache), expected, strict=True))


def test_only_a_larger_capacity_than_ever_moves_it() -> None:
    cache = _random(100, 20)
    assert [cache.resize(capacity) for capacity in (30, 100, 40, 101, 60, 101)] == [False] * 3 + [True] + [False] * 2


def test_a_cache_is_not_made_smaller_than_what_it_holds() -> None:
    cache = _random(100, 20)
    with pytest.raises(ContextFullError, match="holds 20 rows cannot be made one of 19: begin a new conversation"):
        cache.resize(19)
    assert (cache.capacity, cache.length) == (100, 20)


def test_a_cache_that_was_still_growing_goes_on_growing() -> None:
    cache = _random(100, 3, first_rows=10, growth=8)
    cache.resize(60)
    assert (cache.rows, cache.capacity) == (10, 60)
    cache.resize(200)
    cache.require(20)
    assert (cache.rows, cache.capacity) == (26, 200)


@pytest.mark.skipif(read_memory() is None, reason="the system does not tell anonymous memory apart")
def test_memory_is_taken_when_rows_are_written_and_given_back_when_they_go() -> None:
    """4 MiB a kind of array for 1,024 rows; a page of each head more or less, and a few of the process's own."""

    def used() -> float:
        memory = read_memory()
        assert memory is not None
        return (memory.anonymous_bytes - before) / 2**20

    before = 0
    before = int(used() * 2**20)
    cache = KVCache([(2, 256)] * 8, [np.float16] * 8, 8192, first_rows=1024, growth=1024)
    assert used() < 1
    for array in cache.arrays:
        array[:, :, :4096] = 1
    assert 32 <= used() < 34
    cache.append(range(512))
    cache.resize(1024)
    assert 8 <= used() < 10
    cache.resize(16384)
    assert 4 <= used() < 6
    assert all((array[:, :, :512] == 1).all() and not array[:, :, 512:].any() for array in cache.arrays)
    del cache, array
    assert used() < 1


def test_a_move_holds_no_more_than_one_array_twice() -> None:
    if read_memory() is None:
        pytest.skip("the system does not tell anonymous memory apart")
    held, peaks = [], []
    cache = KVCache([(2, 256)] * 8, [np.float16] * 8, 4096)
    for array in cache.arrays:
        array[:, :, :4096] = 1
    cache.append(range(4096))
    release = Pages.release

    def measured(pages: Pages, first: int, last: int) -> None:
        memory = read_memory()
        assert memory is not None
        peaks.append(memory.anonymous_bytes)
        release(pages, first, last)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pages, "release", measured)
        cache.resize(8192)
    held = [peak - peaks[0] for peak in peaks]
    assert len(held) == 8
    assert max(held) < 2**20, "4 MiB each"


def test_a_system_without_huge_pages_holds_caches_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its madvise answers EINVAL to what it does not know; that is no reason not to run."""
    told: list[int] = []

    class Ignorant(mmap.mmap):
        def madvise(self, option: int, *span: int) -> None:
            told.append(option)
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("runtime.process.page_memory.mmap.mmap", Ignorant)
    cache = KVCache([(2, 8)], [np.float32], 16)
    cache.arrays[0][:] = 1
    cache.append(range(8))
    cache.resize(4096)
    assert cache.arrays[0][:, :, :8].all()
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        assert mmap.MADV_NOHUGEPAGE in told
