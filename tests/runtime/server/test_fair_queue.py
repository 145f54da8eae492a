"""Clients take turns, each is answered in its order, and no item is lost or given twice."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.server.fair_queue import FairQueue, QueueClosedError, QueueFullError


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 4), max_size=40))
def test_clients_take_turns(clients: list[int]) -> None:
    queue = FairQueue[tuple[int, int]](100)
    for number, client in enumerate(clients):
        queue.put(client, (client, number))
    taken = [queue.take() for _ in clients]
    assert len(queue) == 0
    assert sorted(filter(None, taken), key=lambda item: item[1]) == list(zip(clients, range(len(clients)), strict=True))
    turns: dict[int, int] = {}
    last: dict[int, int] = {}
    for item in taken:
        assert item is not None
        client, number = item
        assert number > last.get(client, -1)
        last[client] = number
        waiting = {each for each in set(clients) if turns.get(each, 0) < clients.count(each)}
        assert turns.get(client, 0) == min(turns.get(each, 0) for each in waiting)
        turns[client] = turns.get(client, 0) + 1


def test_a_client_that_comes_later_waits_for_one_of_each() -> None:
    queue = FairQueue[str](10)
    for name in ("a1", "a2", "a3"):
        queue.put("a", name)
    queue.put("b", "b1")
    assert [queue.take() for _ in range(4)] == ["a1", "b1", "a2", "a3"]


def test_a_full_queue_refuses_and_a_removed_item_makes_room() -> None:
    queue = FairQueue[str](2)
    queue.put("a", "one")
    queue.put("b", "two")
    with pytest.raises(QueueFullError):
        queue.put("c", "three")
    assert queue.remove("a", "one")
    assert not queue.remove("a", "one")
    queue.put("c", "three")
    assert [queue.take(), queue.take()] == ["two", "three"]


def test_closing_ends_those_who_wait_and_returns_the_rest() -> None:
    queue, taken = FairQueue[str](2), []
    thread = threading.Thread(target=lambda: taken.append(queue.take()))
    thread.start()
    assert queue.close() == []
    thread.join(60)
    assert taken == [None]
    with pytest.raises(QueueClosedError):
        queue.put("a", "one")
