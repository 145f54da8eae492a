"""The cache of a model that drafts for another one with the same weights: it reads and writes the other's cache.

The rows of committed tokens are the target's own, so a borrower never reads a prompt. What it drafts is written past
them, where the target writes next: verifying a draft replaces the borrower's rows before anyone else reads them. So
the lender's rows never depend on the borrower, and the borrower takes no memory for rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.arrays import TokenArray
from runtime.models.hidden_rows import HiddenRows
from runtime.models.kv_cache import KVCache
from runtime.models.layer_states import LayerStates


class BorrowedCache:
    """The cache ``lender`` as another model sees it: all rows that it holds, and after them the borrower's own.

    ``members`` are the keys and values that the borrower has, by their places in ``lender.arrays``. Whenever the lender
    changes, the borrower's own rows are gone.
    """

    states: LayerStates | None = None  # models whose layers have states lend nothing

    def __init__(self, lender: KVCache, members: Sequence[int]) -> None:
        assert lender.states is None
        self._lender, self._members = lender, tuple(members)
        self._length, self._version = 0, -1
        self.hidden: HiddenRows | None = None

    @property
    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """The lender's arrays of the borrower's layers."""
        return tuple(self._lender.arrays[member] for member in self._members)

    @property
    def capacity(self) -> int:
        """Rows that there is room for."""
        return self._lender.capacity

    @property
    def rows(self) -> int:
        """Rows that may be written so far."""
        return self._lender.rows

    @property
    def nbytes(self) -> int:
        """Bytes of its own: none."""
        return 0

    @property
    def length(self) -> int:
        """The lender's rows and the own ones."""
        return self._length if self._version == self._lender.version else self._lender.length

    @property
    def tokens(self) -> TokenArray:
        """The tokens of all rows, int32 ``[length]``, a view that is valid until the next change."""
        return self._lender.note(self.length, ())

    def require(self, rows: int) -> None:
        """See ``KVCache.require``."""
        self._lender.require_after(self.length, rows)

    def resize(self, capacity: int) -> bool:
        """The lender has been resized: its arrays may be others."""
        return True

    def append(self, tokens: Sequence[int] | TokenArray) -> None:
        """See ``KVCache.append``."""
        self._keep(len(self._lender.note(self.length, tokens)))

    def can_reach(self, length: int) -> bool:
        """Whether a rollback to ``length`` leaves as many rows: not below the lender's."""
        return length >= self._lender.length

    def settle(self) -> None:
        """Nothing is copied at the end of a prompt."""

    def rollback(self, length: int, rows: Sequence[int] = ()) -> None:
        """See ``KVCache.rollback``. The lender's rows always stay: rows are left that are not asked for."""
        held = self._lender.length
        if length < held:
            return self._keep(held)
        end, source = length + len(rows), list(rows)
        if source and source != list(range(length, end)):
            for array in self.arrays:
                array[:, :, length:end] = array[:, :, source]
            self._lender.note(length, np.array(self.tokens[source]))
        return self._keep(end)

    def release(self) -> None:
        """Forgets its own rows."""
        self._keep(self._lender.length)

    def close(self) -> None:
        """Forgets its own rows; the lender keeps its memory."""
        self.release()

    def _keep(self, length: int) -> None:
        self._length, self._version = length, self._lender.version
