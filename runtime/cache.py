"""The KV cache of one model: memory allocated once, and a length that moves.

Rows past the length are forgotten without being touched, so rollback costs nothing. Only a tree copies: the rows of
the accepted path are moved together. The cache also knows which token each row stands for, so that everyone who keeps
a cache across steps or turns can find the prefix it shares with the committed tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from export.manifest import PocketspecError
from runtime.context import TokenArray


class ContextFullError(PocketspecError, ValueError):
    """More tokens than the cache has rows, or than the context allows."""


class KVCache:
    """Keys and values of ``capacity`` rows for every layer.

    ``shapes`` gives (kv_heads, head_size) of each key and value in the graph's order, ``dtypes`` their types.
    ``arrays[i]`` is ``[1, kv_heads, capacity, head_size]``. Arrays of one shape and type lie in one block, so that
    moving rows is one copy for all layers. The memory is zeroed lazily by the system: unused rows cost nothing.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]], dtypes: Sequence[npt.DTypeLike], capacity: int) -> None:
        kinds = [(*shape, np.dtype(dtype)) for shape, dtype in zip(shapes, dtypes, strict=True)]
        self._blocks: list[npt.NDArray[Any]] = []
        views: dict[int, npt.NDArray[Any]] = {}
        for heads, head_size, dtype in dict.fromkeys(kinds):
            members = [i for i, kind in enumerate(kinds) if kind == (heads, head_size, dtype)]
            block = np.zeros((len(members), heads, capacity, head_size), dtype)
            self._blocks.append(block)
            views.update((member, block[place : place + 1]) for place, member in enumerate(members))
        self.arrays = tuple(views[i] for i in range(len(kinds)))
        self.capacity = capacity
        self.length = 0
        self._tokens = np.zeros(capacity, np.int32)

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values, at full capacity."""
        return sum(block.nbytes for block in self._blocks)

    @property
    def tokens(self) -> TokenArray:
        """A view of the tokens whose rows are held, int32 ``[length]``, valid until the next change."""
        return self._tokens[: self.length]

    def require(self, rows: int) -> None:
        """Raises ContextFullError unless ``rows`` more rows fit."""
        if self.length + rows > self.capacity:
            raise ContextFullError(
                f"{rows} more rows do not fit a cache of {self.capacity} that holds {self.length}:"
                " shorten the text or open the bundle with a larger context"
            )

    def append(self, tokens: Sequence[int] | TokenArray) -> None:
        """Counts the rows of ``tokens``, which a forward has just written behind the last row, as held."""
        end = self.length + len(tokens)
        self._tokens[self.length : end] = tokens
        self.length = end

    def rollback(self, length: int, rows: Sequence[int] = ()) -> None:
        """Forgets all rows past ``length``, then keeps ``rows`` of those by moving them to where the cache now ends.

        ``rows`` are cache indices, increasing. Holding 10 rows, ``rollback(6, [6, 8])`` leaves 8: row 8 becomes row 7.
        """
        assert 0 <= length <= self.length, (length, self.length)
        assert not rows or (length <= rows[0] and rows[-1] < self.length), (length, rows, self.length)
        stay = 0
        while stay < len(rows) and rows[stay] == length + stay:
            stay += 1
        if stay < len(rows):
            start, end, source = length + stay, length + len(rows), list(rows[stay:])
            for block in self._blocks:
                block[:, :, start:end] = block[:, :, source]
            self._tokens[start:end] = self._tokens[source]
        self.length = length + len(rows)
