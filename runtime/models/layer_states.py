"""The convolution and recurrent states of one model: arrays at fixed addresses, and how far they can be taken back.

A KV cache has a row for every token; these states have been changed by all of them. Three things make rollback cheap.
A convolution keeps some more rows than it sees, in a ring, so that older rows are still there. A recurrence keeps its
state at an earlier position, its *base*, and of every row since then the few vectors that repeat its *update*: the next
forward repeats those that stayed, before its own rows. And at the end of a prompt all arrays are copied, so that a text
that shares the prompt begins there, and not at nothing.

So rollback within the last ``held`` rows is a matter of integers; further back it leads to a copy, or to nothing, and
whoever asked reads the rest again. What the arrays mean is specified in ``export/graph/lowering/states.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.arrays import FloatArray

CONVOLUTION, RECURRENT, UPDATES = "past_conv", "past_recurrent", "past_updates"
KINDS = (CONVOLUTION, RECURRENT, UPDATES)

# Beyond any position: no length can be reached.
_UNKNOWN = 1 << 40


@dataclass(frozen=True)
class StateSizes:
    """How much is kept: the last ``held`` rows can be taken back, and ``snapshots`` copies are kept beside.

    ``width`` rows are seen by a convolution. With ``deep`` several forwards can be taken back, as many as have ``held``
    rows together, and each of them repeats the updates of all of these; else the last forward alone.
    """

    width: int
    held: int
    snapshots: int = 0
    deep: bool = False

    @property
    def slots(self) -> int:
        """Rows of a convolution's ring."""
        return self.width - 1 + self.held


@dataclass
class _Copy:
    """A copy of all arrays at ``length`` tokens, from which any length from ``first`` on can be reached."""

    arrays: tuple[FloatArray, ...]
    base: int
    lowest: int
    first: int
    length: int


class LayerStates:
    """The states of all layers. ``inputs`` has the names and shapes of the graph's inputs, 0 for sizes left open.

    ``arrays`` are in that order, float32. Positions count the tokens of the text. The arrays are
    of the first ``high`` of them, some of which may be rejected yet, or padding.
    """

    def __init__(self, inputs: Sequence[tuple[str, tuple[int, ...]]], sizes: StateSizes) -> None:
        self.sizes = sizes
        self._inputs = tuple(inputs)
        self._has_bases = any(name.startswith(RECURRENT) for name, _ in inputs)
        self.arrays = tuple(self._zeros(name, shape) for name, shape in inputs)
        self._copies: list[_Copy] = []
        self.base = self.high = 0
        self.lowest = -sizes.slots  # rows of the ring at this position and above are as they were written

    def _zeros(self, name: str, shape: tuple[int, ...]) -> FloatArray:
        rows = {CONVOLUTION: self.sizes.slots, UPDATES: self.sizes.held}.get(_kind(name))
        return np.zeros(shape if rows is None else (1, rows, shape[2]), np.float32)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays and copies."""
        return sum(array.nbytes for array in self.arrays) * (1 + len(self._copies))

    @property
    def first(self) -> int:
        """The lowest length that can be reached without a copy."""
        seen = max(self.lowest + self.sizes.width - 1, 0)
        return max(seen, self.base) if self._has_bases else seen

    def replay(self, length: int, rows: int) -> tuple[int, int]:
        """For a forward of ``rows`` rows after ``length``: how many updates it repeats, and how far the base moves."""
        if not self._has_bases:
            return 0, 0
        repeated = length - self.base
        assert repeated >= 0, (length, self.base)
        overflow = repeated + rows - self.sizes.held
        return repeated, max(overflow, 0 if self.sizes.deep else repeated)

    def advance(self, length: int, rows: int) -> None:
        """A forward of ``rows`` rows after ``length`` has run."""
        self.base += self.replay(length, rows)[1]
        self.high = length + rows
        self.lowest = max(self.lowest, self.high - self.sizes.slots)

    def claim(self, length: int) -> None:
        """Takes the arrays as they are for the states after ``length`` tokens."""
        self.high = self.base = length
        self.lowest = length - self.sizes.width + 1

    def saved_shapes(self, behind: int) -> list[tuple[int, ...]]:
        """Shapes of the arrays of ``save``, if the bases lack ``behind`` rows."""
        rows: dict[str, int] = {CONVOLUTION: self.sizes.width - 1, UPDATES: behind}
        return [(rows.get(_kind(name), len(array[0])), *array.shape[2:]) for name, array in self._named()]

    def behind(self, length: int) -> int:
        """Rows that the bases lack at ``length``."""
        return length - self.base if self._has_bases else 0

    def save(self, length: int) -> list[FloatArray]:
        """What the states at ``length`` follow from: the rows that convolutions see, bases, and updates since these.

        Copies, without the axis of the batch; ``length`` is one that can be reached.
        """
        return [array[0][rows].copy() for array, rows in self._saved_rows(length, self.behind(length))]

    def load(self, parts: Sequence[FloatArray], length: int, behind: int) -> None:
        """Takes over what ``save`` gave at ``length``, where the bases lacked ``behind`` rows."""
        self.release()
        for (array, rows), part in zip(self._saved_rows(length, behind), parts, strict=True):
            array[0][rows] = part
        self.high, self.base = length, length - behind
        self.lowest = length - self.sizes.width + 1

    def _saved_rows(self, length: int, behind: int) -> list[tuple[FloatArray, Any]]:
        """Every array, and which of its rows ``save`` copies."""
        seen = self._slots_of(np.arange(length - self.sizes.width + 1, length))
        rows: dict[str, Any] = {CONVOLUTION: seen, UPDATES: slice(behind)}
        return [(array, rows.get(_kind(name), slice(None))) for name, array in self._named()]

    def _slots_of(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return positions % self.sizes.slots

    def _named(self) -> list[tuple[str, FloatArray]]:
        return [(name, array) for (name, _), array in zip(self._inputs, self.arrays, strict=True)]

    def lose(self) -> None:
        """A forward failed: what the arrays hold is not known."""
        self.base = self.lowest = _UNKNOWN

    def rollback(self, length: int) -> int:
        """Goes back to ``length``, or as near below as can be reached; returns the length."""
        if length < self.first:
            length = self._restore(length)
        self._copies = [copy for copy in self._copies if copy.first <= length]
        for copy in self._copies:
            copy.length = min(copy.length, length)  # what follows will be other tokens
        self.high = length
        return length

    def _restore(self, length: int) -> int:
        best = max(
            (copy for copy in self._copies if copy.first <= length and length),
            key=lambda copy: min(copy.length, length),
            default=None,
        )
        if best is None:
            for array in self.arrays:
                array[...] = 0
            self.base, self.lowest = 0, -self.sizes.slots
            return 0
        for array, kept in zip(self.arrays, best.arrays, strict=True):
            array[...] = kept
        self.base, self.lowest = best.base, best.lowest
        return min(best.length, length)

    def snapshot(self, length: int) -> None:
        """Copies all arrays at ``length``; the oldest copy gives its place, once there are as many as allowed."""
        if self.sizes.snapshots == 0 or length < self.first:
            return
        self._copies = [copy for copy in self._copies if copy.length < length]
        full = len(self._copies) == self.sizes.snapshots
        arrays = self._copies.pop(0).arrays if full else tuple(np.empty_like(array) for array in self.arrays)
        for kept, array in zip(arrays, self.arrays, strict=True):
            kept[...] = array
        self._copies.append(_Copy(arrays, self.base, self.lowest, self.first, length))

    @property
    def newest_copy(self) -> int:
        """The length of the newest copy; 0 if there is none."""
        return max((copy.length for copy in self._copies), default=0)

    def hold(self, held: int) -> bool:
        """Makes room for ``held`` rows at least; returns whether ``arrays`` are new ones."""
        if held <= self.sizes.held:
            return False
        old, copies = self.arrays, self._copies
        before, self.sizes = self.sizes, replace(self.sizes, held=held)
        self.arrays = self._moved(old, before, self.lowest, self.high)
        for copy in copies:
            copy.arrays = self._moved(copy.arrays, before, copy.lowest, copy.length)
        return True

    def _moved(
        self, arrays: Sequence[FloatArray], before: StateSizes, lowest: int, high: int
    ) -> tuple[FloatArray, ...]:
        moved = tuple(self._zeros(name, shape) for name, shape in self._inputs)
        positions = np.arange(max(lowest, high - before.slots), high)
        for (name, _), new, old in zip(self._inputs, moved, arrays, strict=True):
            if name.startswith(CONVOLUTION):
                new[:, self._slots_of(positions)] = old[:, positions % before.slots]
            else:
                new[:, : old.shape[1]] = old
        return moved

    def release(self) -> None:
        """Forgets everything, copies too."""
        self._copies = []
        self.lose()
        self.rollback(0)


def _kind(name: str) -> str:
    """Which of ``KINDS`` an input is."""
    return name.partition(".")[0]


def make_states(inputs: Sequence[tuple[str, tuple[int, ...]]], sizes: StateSizes | None) -> LayerStates | None:
    """The states of a graph with these ``inputs``; None if it has none."""
    if not inputs:
        return None
    assert sizes is not None
    return LayerStates(inputs, sizes)


def replay_array() -> npt.NDArray[np.int64]:
    """The graph's input ``replay``."""
    return np.zeros(2, np.int64)
