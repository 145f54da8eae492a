"""A model without weights, whose every answer hangs on the content of its cache.

A row's logits come from a table, looked up with the last two tokens and a signature of the whole path, and all of that
is read from the cache row of its parent. A row that rollback forgot, moved wrongly or left stale gives other logits, so
the laws of decoding hold for this model only if the cache is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from runtime.decoding.protocols import ModelOutput
from runtime.models.kv_cache import KVCache

_TOKEN, _POSITION, _SIGNATURE, _LAST = range(4)
# Signatures stay whole numbers that float32 holds exactly.
_SIGNATURES = 1 << 20


class TableModel:
    """Implements ``Model``; equal seeds give equal models. ``padded`` adds the dummy rows a device would want."""

    takes_trees = True

    def __init__(
        self,
        vocab_size: int = 11,
        capacity: int = 96,
        max_rows: int = 12,
        seed: int = 0,
        pad: Callable[[int], int] = lambda rows: rows,
    ) -> None:
        self.vocab_size, self.max_rows, self.seed, self._pad = vocab_size, max_rows, seed, pad
        self.logits_rows = max_rows
        self.cache = KVCache([(1, 4)], [np.float32], capacity)
        self._table = _table(vocab_size, seed)

    def padded(self, rows: int) -> int:
        return self._pad(rows)

    def prefill(self, tokens: Sequence[int]) -> None:
        self.cache.require(len(tokens))
        for token in tokens:
            self._append([int(token)], [-1])

    def forward(self, tokens, parents=None, logits_from=0) -> ModelOutput:
        width = self._pad(len(tokens))
        assert len(tokens) <= width <= self.max_rows
        assert len(tokens) - logits_from <= self.logits_rows
        self.cache.require(width)
        tokens = [int(token) for token in tokens]
        logits = self._append(tokens, list(range(-1, len(tokens) - 1)) if parents is None else list(parents))
        end = self.cache.length
        self.cache.arrays[0][0, 0, end : end + width - len(tokens)] = -1  # what dummy rows leave behind
        return ModelOutput(np.stack(logits[logits_from:]))

    def _append(self, tokens: list[int], parents: list[int]) -> list[np.ndarray]:
        rows, past = self.cache.arrays[0][0, 0], self.cache.length
        logits = []
        for row, (token, parent) in enumerate(zip(tokens, parents, strict=True)):
            assert -1 <= parent < row
            before = rows[past + parent] if past + parent >= 0 else np.array([0, -1, 0, 0])
            signature = (int(before[_SIGNATURE]) * 31 + token * 7 + 1) % _SIGNATURES
            rows[past + row] = token, before[_POSITION] + 1, signature, before[_TOKEN]
            logits.append(self._table[signature % 3, token, int(before[_TOKEN])])
        self.cache.append(tokens)
        return logits


@cache
def _table(vocab_size: int, seed: int) -> np.ndarray:
    table = np.random.default_rng(seed).standard_normal((3, vocab_size, vocab_size, vocab_size)) * 3
    return table.astype(np.float32)


def fresh_rows(model: TableModel, tokens: Sequence[int]) -> np.ndarray:
    """The cache rows that ``tokens`` have when nothing was ever drafted."""
    other = TableModel(model.vocab_size, len(tokens) + 1, seed=model.seed)
    other.prefill(tokens)
    return other.cache.arrays[0][:, :, : len(tokens)].copy()
