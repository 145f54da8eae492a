"""The queue before one engine: clients take turns, and what one client asks is answered in its order."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class QueueFullError(Exception):
    """The queue holds as many items as it may."""


class QueueClosedError(Exception):
    """The queue takes no more items."""


class FairQueue(Generic[_T]):
    """At most ``limit`` items, round robin over clients and first come, first served for each. For any thread."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._changed = threading.Condition()
        # The clients in the order of their turns, each with its items.
        self._waiting: OrderedDict[Hashable, deque[_T]] = OrderedDict()
        self._length = 0
        self._is_closed = False

    def __len__(self) -> int:
        return self._length

    def put(self, client: Hashable, item: _T) -> None:
        """Adds ``item`` behind those of ``client``; QueueFullError, or QueueClosedError."""
        with self._changed:
            if self._is_closed:
                raise QueueClosedError
            if self._length >= self.limit:
                raise QueueFullError
            self._waiting.setdefault(client, deque()).append(item)
            self._length += 1
            self._changed.notify()

    def take(self) -> _T | None:
        """The next item, waiting for one; None when the queue is closed. Its client's next turn is the last."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._waiting)
            if self._is_closed:
                return None
            client, items = self._waiting.popitem(last=False)
            item = items.popleft()
            self._length -= 1
            if items:
                self._waiting[client] = items
            return item

    def remove(self, client: Hashable, item: _T) -> bool:
        """Takes out an item of ``client``; False if it is not in the queue."""
        with self._changed:
            items = self._waiting.get(client)
            if items is None or item not in items:
                return False
            items.remove(item)
            self._length -= 1
            if not items:
                del self._waiting[client]
            return True

    def close(self) -> list[_T]:
        """Ends the queue; returns the items that are still in it."""
        with self._changed:
            self._is_closed = True
            rest = [item for items in self._waiting.values() for item in items]
            self._waiting.clear()
            self._length = 0
            self._changed.notify_all()
            return rest
