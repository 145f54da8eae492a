"""An array is handed out again when, and only when, nobody refers to it any more."""

from __future__ import annotations

import threading

import numpy as np

from runtime.arrays import ReusedArrays, at_least


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def test_an_array_that_nobody_holds_comes_back() -> None:
    arrays = ReusedArrays(np.float32)
    first = arrays.take(100)
    place = address(first)
    assert first.dtype == np.float32
    assert first.shape == (100,)
    del first
    assert address(arrays.take(100)) == place
    assert address(arrays.take(60)) == place


def test_an_array_in_use_is_not_handed_out_even_if_only_a_part_is_held() -> None:
    arrays = ReusedArrays(np.float32)
    held = [arrays.take(100)[10:20], arrays.take(100), {"deep": [arrays.take(100)[::2]]}]
    other = arrays.take(100)
    assert all(not np.shares_memory(other, array) for array in (held[0], held[1], held[2]["deep"][0]))


def test_free_arrays_that_are_too_small_are_not_kept() -> None:
    arrays = ReusedArrays(np.float32)
    for size in range(1, 50):
        arrays.take(size)
    assert len(arrays._arrays) == 1


def test_threads_never_share_an_array() -> None:
    arrays, wrong = ReusedArrays(np.int64), []

    def use(number: int) -> None:
        for _ in range(2_000):
            array = arrays.take(64)
            array.fill(number)
            if (array != number).any():
                wrong.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_at_least_is_the_comparison() -> None:
    values = np.array([0.5, 1.0, 1.5, np.nan], np.float32)
    assert at_least(values, 1.0).tolist() == (values >= 1.0).tolist() == [False, True, True, False]
