"""The target's last hidden rows, for drafters that read them.

Every forward of the target gives rows at its taps. They are kept in a ring, by their position in the text, and follow
the cache when it is rolled back. Before rows are overwritten, those who read them are told which ones will be lost, so
that none of them has a gap after a long prompt or after steps in which others drafted.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from runtime.arrays import FloatArray


class HiddenReader(Protocol):
    """Who reads hidden rows."""

    def read_before(self, lost: int) -> None:
        """Rows at positions below ``lost`` are overwritten next; what they are needed for has to be done now."""
        ...


class HiddenRows:
    """At most ``capacity`` rows, float32 of ``width`` numbers each: those at positions ``first`` to ``end``, exclusive.

    ``readers`` are not kept alive by it.
    """

    def __init__(self, width: int, capacity: int) -> None:
        self._ring = np.zeros((capacity, width), np.float32)
        self.first = self.end = 0
        self.readers: weakref.WeakSet[HiddenReader] = weakref.WeakSet()

    @property
    def arrays(self) -> tuple[FloatArray, ...]:
        """The array of all rows."""
        return (self._ring,)

    @property
    def capacity(self) -> int:
        """The most rows that are held."""
        return len(self._ring)

    @property
    def width(self) -> int:
        """Numbers of a row."""
        return self._ring.shape[1]

    def rows(self, start: int, stop: int) -> FloatArray:
        """A copy of the rows at positions ``start`` to ``stop``, all of them held: float32 ``[rows, width]``."""
        assert self.first <= start <= stop <= self.end, (self.first, start, stop, self.end)
        return self._ring[np.arange(start, stop) % len(self._ring)]

    def make_room(self, rows: int) -> None:
        """Tells the readers that ``rows`` more rows will come, if that overwrites any."""
        lost = self.end + rows - len(self._ring)
        if lost > self.first:
            for reader in list(self.readers):
                reader.read_before(min(lost, self.end))

    def write(self, start: int, parts: Sequence[FloatArray]) -> None:
        """Takes the rows from position ``start`` on: ``parts`` ``[rows, ...]`` are put side by side."""
        capacity, rows = len(self._ring), len(parts[0])
        if start != self.end:
            self.claim(start)
        kept = min(rows, capacity)
        places = np.arange(start + rows - kept, start + rows) % capacity
        column = 0
        for part in parts:
            self._ring[places, column : column + part.shape[1]] = part[rows - kept :]
            column += part.shape[1]
        self.end = start + rows
        self.first = max(self.first, self.end - capacity)

    def claim(self, end: int) -> None:
        """The text has ``end`` tokens, whose rows nobody has: none is held."""
        self.first = self.end = end

    def rollback(self, length: int, rows: Sequence[int] = ()) -> None:
        """Follows ``KVCache.rollback``: rows at ``rows`` move behind ``length``, and what comes after them is gone."""
        held, end = [row for row in rows if row >= self.first], length + len(rows)
        if held:
            self._ring[np.arange(end - len(held), end) % self.capacity] = self._ring[np.asarray(held) % self.capacity]
        self.first = self.first if self.first <= length else end - len(held)
        self.end = end
