"""Scratch arrays are used again by role and thread, those of an arena only once their owner has taken them back."""

from __future__ import annotations

import threading

import numpy as np

from runtime.arrays import Arena, Scratch, at_least


def test_scratch_is_one_array_for_each_role() -> None:
    scratch = Scratch(np.float32)
    first, other = scratch.take("first", 100), scratch.take("other", 100)
    assert (first.dtype, first.shape) == (np.float32, (100,))
    assert not np.shares_memory(first, other)
    assert np.shares_memory(first, scratch.take("first", 60))
    assert not np.shares_memory(first, scratch.take("first", 101))


def test_threads_never_share_scratch() -> None:
    scratch, wrong = Scratch(np.int64), []

    def use(number: int) -> None:
        for _ in range(2_000):
            array = scratch.take("numbers", 64)
            array.fill(number)
            if (array != number).any():
                wrong.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_arena_hands_nothing_out_twice_before_its_reset() -> None:
    arena = Arena()
    values = np.arange(100, dtype=np.float64) / 7
    held = [arena.take(100), arena.take(50), arena.copy(values)]
    assert not any(np.shares_memory(left, right) for left in held for right in held if left is not right)
    assert np.array_equal(held[2], values)
    arena.reset()
    again = [arena.take(80), arena.take(60), arena.take(100, np.float64)]
    assert [np.shares_memory(old, new) for old, new in zip(held, again, strict=True)] == [True, False, True]


def test_at_least_is_the_comparison() -> None:
    values = np.array([0.5, 1.0, 1.5, np.nan], np.float32)
    assert at_least(values, 1.0).tolist() == (values >= 1.0).tolist() == [False, True, True, False]
