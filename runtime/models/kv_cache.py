"""The cache of one model: KV rows at fixed addresses, a length that changes, and the states of layers without rows.

Rows past the length are forgotten without being touched, so rollback costs nothing. Only a tree needs copies: the rows
of the accepted path are moved together. The cache also knows the token of each row. So a cache that is kept across
steps or turns shows which prefix it shares with the committed tokens.

Address space is reserved for the maximum of rows, memory only for rows that are written. So a cache that grows in steps
copies nothing, and one that is made smaller returns the pages past its new end.

Some models have layers with states (``layer_states``). These cannot go back to every length, so a rollback may leave
fewer rows than asked, never more: whoever asked looks at ``length`` and reads the rest again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.arrays import TokenArray
from runtime.errors import ContextFullError
from runtime.models.hidden_rows import HiddenRows
from runtime.models.layer_states import LayerStates
from runtime.process.page_memory import Pages

# Fewer rows than this are read again; a copy of all states would take as long.
_FEW_ROWS = 32


class KVCache:
    """Keys and values of at most ``capacity`` rows for every layer; ``rows`` is how many may be written so far.

    ``shapes`` gives (kv_heads, head_size) of each key and value in the graph's order, ``dtypes`` their types. The cache
    begins with ``first_rows`` and grows by ``growth`` rows whenever a forward needs them; None and 0 mean all rows at
    once. ``arrays[i]`` is ``[1, kv_heads, largest capacity so far, head_size]``. Arrays of one shape and type are in
    one block, so that moving rows is one copy for all layers. ``states`` are those of layers without keys and values.
    ``hidden`` are the last hidden rows of the same tokens, if any are kept.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        dtypes: Sequence[npt.DTypeLike],
        capacity: int,
        first_rows: int | None = None,
        growth: int = 0,
        states: LayerStates | None = None,
    ) -> None:
        self.states = states
        self.hidden: HiddenRows | None = None
        kinds = [(*shape, np.dtype(dtype)) for shape, dtype in zip(shapes, dtypes, strict=True)]
        self._kinds = kinds
        self._blocks = [_Block(kind, kinds.count(kind), capacity) for kind in dict.fromkeys(kinds)]
        self.arrays = self._views()
        self.capacity = capacity
        self.rows = min(capacity, first_rows or capacity)
        self._growth = growth or capacity
        self.length = 0
        # Grows with every change of the rows held.
        self.version = 0
        self._tokens = np.zeros(capacity, np.int32)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values in the rows that may be written so far."""
        return self.rows * sum(heads * size * dtype.itemsize for heads, size, dtype in self._kinds)

    @property
    def tokens(self) -> TokenArray:
        """A view of the tokens whose rows are held, int32 ``[length]``, valid until the next change."""
        return self._tokens[: self.length]

    def require(self, rows: int) -> None:
        """Makes sure that ``rows`` more rows may be written; ContextFullError if they do not fit."""
        self.require_after(self.length, rows)

    def require_after(self, length: int, rows: int) -> None:
        """Makes sure that ``rows`` rows may be written after the first ``length``; ContextFullError."""
        needed = length + rows
        if needed > self.capacity:
            raise ContextFullError(
                f"{rows} more rows do not fit a cache of {self.capacity} that holds {length}:"
                " shorten the text or open the bundle with a larger context"
            )
        if needed > self.rows:
            steps = -(-(needed - self.rows) // self._growth)
            self.rows = min(self.capacity, self.rows + steps * self._growth)

    def resize(self, capacity: int) -> bool:
        """Changes the capacity and keeps all rows held; returns whether ``arrays`` are new ones.

        A smaller capacity returns memory at once; ContextFullError if it is below the rows held. A capacity larger than
        ever before moves the cache, one array at a time, so that at most one is held twice.
        """
        if capacity < self.length:
            raise ContextFullError(
                f"a cache that holds {self.length} rows cannot be made one of {capacity}: begin a new conversation"
            )
        reserved = len(self._tokens)
        if capacity <= reserved:
            for block in self._blocks:
                block.release(capacity)
        self.rows = self._rows_at(capacity)
        self.capacity = capacity
        self.version += 1
        if capacity <= reserved:
            return False
        self._blocks = [block.moved(capacity, self.length) for block in self._blocks]
        self.arrays = self._views()
        self._tokens = np.concatenate([self._tokens, np.zeros(capacity - reserved, np.int32)])
        return True

    def _rows_at(self, capacity: int) -> int:
        """How many rows may be written at a new ``capacity``: all, unless the cache was still growing."""
        return capacity if self.rows == self.capacity else min(self.rows, capacity)

    def _views(self) -> tuple[npt.NDArray[Any], ...]:
        """One array for each key and value, in the graph's order."""
        blocks = dict(zip(dict.fromkeys(self._kinds), (iter(block.array) for block in self._blocks), strict=True))
        return tuple(next(blocks[kind])[None] for kind in self._kinds)

    def note(self, length: int, tokens: Sequence[int] | TokenArray) -> TokenArray:
        """Notes ``tokens`` for rows from ``length`` on, past those held; the tokens up to their end, until a change."""
        assert length >= self.length, (length, self.length)
        end = length + len(tokens)
        self._tokens[length:end] = tokens
        return self._tokens[:end]

    def close(self) -> None:
        """Returns all memory; the cache cannot be used afterwards."""
        self.length = 0
        self.arrays, self._blocks, self.states, self.hidden = (), [], None, None

    def release(self) -> None:
        """Forgets all rows and returns their memory to the system."""
        for block in self._blocks:
            block.release(0)
        if self.states is not None:
            self.states.release()
        if self.hidden is not None:
            self.hidden.claim(0)
        self.length = 0
        self.version += 1

    def append(self, tokens: Sequence[int] | TokenArray) -> None:
        """Adds the rows of ``tokens``, which a forward has just written after the last row.

        If none has, what the arrays hold is taken for these rows, and states for those after them.
        """
        end = self.length + len(tokens)
        if self.states is not None and end > self.states.high:
            self.states.claim(end)
        if self.hidden is not None and end > self.hidden.end:
            self.hidden.claim(end)
        self._tokens[self.length : end] = tokens
        self.length = end
        self.version += 1

    def can_reach(self, length: int) -> bool:
        """Whether a rollback to ``length`` leaves as many rows, without a copy of states."""
        return self.states is None or self.states.first <= length

    def settle(self) -> None:
        """The rows held are the end of a prompt: another text that begins like it can go back to here."""
        states = self.states
        if states is not None and self.length - states.newest_copy >= _FEW_ROWS:
            states.snapshot(self.length)

    def rollback(self, length: int, rows: Sequence[int] = ()) -> None:
        """Forgets all rows past ``length``, except ``rows``, which are moved to the end of what remains.

        ``rows`` are cache indices, increasing. Holding 10 rows, ``rollback(6, [6, 8])`` leaves 8: row 8 becomes row 7.
        With states ``rows`` follow ``length`` without a gap, and fewer rows may be left.
        """
        assert 0 <= length <= self.length, (length, self.length)
        assert not rows or (length <= rows[0] and rows[-1] < self.length), (length, rows, self.length)
        stay = 0
        while stay < len(rows) and rows[stay] == length + stay:
            stay += 1
        if stay < len(rows):
            start, end, source = length + stay, length + len(rows), list(rows[stay:])
            for block in self._blocks:
                block.array[:, :, start:end] = block.array[:, :, source]
            self._tokens[start:end] = self._tokens[source]
        self.length = length + len(rows)
        self.version += 1
        if self.states is not None:
            assert stay == len(rows), rows
            self.length = self.states.rollback(self.length)
        if self.hidden is not None:
            reached = self.length == length + len(rows)
            self.hidden.rollback(*((length, rows) if reached else (self.length,)))


class _Block:
    """Arrays of one kind (heads, size, type): ``array`` ``[members, heads, rows, size]``, in pages of its own."""

    def __init__(self, kind: tuple[int, int, np.dtype[Any]], members: int, rows: int) -> None:
        heads, size, dtype = self._kind = kind
        self._row_bytes = size * dtype.itemsize
        self._pages = Pages(members * heads * rows * self._row_bytes)
        self.array = self._pages.array((members, heads, rows, size), dtype)

    def release(self, first_row: int) -> None:
        """Returns the memory of the rows from ``first_row`` on."""
        members, heads, rows, _ = self.array.shape
        for end in range(rows, members * heads * rows + 1, rows):
            self._pages.release((end - rows + first_row) * self._row_bytes, end * self._row_bytes)

    def moved(self, rows: int, held: int) -> _Block:
        """A block of ``rows`` rows with the first ``held`` rows of this one, which is left empty."""
        members, heads, old, _ = self.array.shape
        block, member_bytes = _Block(self._kind, members, rows), heads * old * self._row_bytes
        for member in range(members):
            block.array[member, :, :held] = self.array[member, :, :held]
            self._pages.release(member * member_bytes, (member + 1) * member_bytes)
        return block
