"""Texts of earlier conversations, for the suffix drafter: what followed the last tokens there may follow again.

It holds the latest texts that fit its bytes, the oldest are dropped first, and it is kept in a file between processes
(``store_file``). The latest text is not searched: while an answer is decoded, it is the beginning of the same
conversation, which the drafter has in its own index.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from export.manifest import Vocabulary
from runtime.arrays import TokenArray
from runtime.decoding.context import shared_prefix
from runtime.drafters.store_file import StoreError, StoreFile
from runtime.drafters.suffix import BYTES_PER_TOKEN, Occurrence, SuffixIndex

# A token that no text has, between two texts.
_BETWEEN = -1
# What a store takes if nothing else is asked: 95,000 tokens, 381 KB on disk.
STORE_BYTES = 4 << 20
# Beside its index, a token is in a text, and in the latest one (int32 each).
_BYTES_PER_TOKEN = BYTES_PER_TOKEN + 4 + 4
# When there is no room, texts are dropped until this share is free, so that the index is seldom built anew.
_FREED = 0.25


class SuffixStore:
    """The store in the file ``path``, for texts in ``vocabulary``, with at most ``num_bytes`` in memory.

    ``notify`` gets a line if the file was damaged or cannot be written. StoreError if it is in use or unfit. For any
    thread.
    """

    def __init__(
        self, path: Path, vocabulary: Vocabulary, num_bytes: int, notify: Callable[[str], None] = lambda line: None
    ) -> None:
        self._file, self._notify = StoreFile(path, vocabulary), notify
        self._lock = threading.Lock()
        self._index = SuffixIndex(0)
        self._texts: list[TokenArray] = []
        self._latest: TokenArray = np.empty(0, np.int32)
        try:
            self.allow(num_bytes)
        except BaseException:
            self._file.close()
            raise

    @property
    def nbytes(self) -> int:
        """The size of the index in bytes."""
        return self._index.nbytes

    @property
    def num_tokens(self) -> int:
        """The tokens of all texts."""
        return sum(map(len, self._texts)) + len(self._latest)

    def allow(self, num_bytes: int) -> None:
        """Takes at most ``num_bytes`` from now on, for the latest of the file's texts. With 0 it remembers none."""
        with self._lock:
            capacity = num_bytes // _BYTES_PER_TOKEN
            if capacity == self._index.capacity:
                return
            texts, damage = self._file.read()
            if damage is not None:
                self._notify(damage)
            self._latest = np.empty(0, np.int32)
            self._index = SuffixIndex(capacity)
            self._fill(texts)

    def remember(self, tokens: TokenArray) -> None:
        """Adds a text, in place of the latest one if it continues that, and writes the file.

        A text that is longer than the store is kept from its end.
        """
        with self._lock:
            capacity = self._index.capacity
            if not capacity or not len(tokens):
                return
            tokens = np.array(tokens[-(capacity // 2) :], np.int32)
            if 2 * shared_prefix(self._latest, tokens) < len(self._latest):
                self._fill([*self._texts, self._latest])
            self._latest = tokens
            try:
                self._file.write([*self._texts, self._latest])
            except StoreError as error:
                self._notify(str(error))

    def occurrences(self, tokens: TokenArray, depth: int) -> list[Occurrence]:
        """Places in the texts that match the end of ``tokens``; see ``SuffixIndex.occurrences``."""
        with self._lock:
            found = self._index.occurrences_of(tokens, depth)
        return [Occurrence(place.match, _until(place.continuation)) for place in found]

    def close(self) -> None:
        """Lets other processes use the store."""
        with self._lock:
            self._index, self._texts = SuffixIndex(0), []
            self._file.close()

    def _fill(self, texts: Sequence[TokenArray]) -> None:
        """Searches ``texts``, the oldest first, or the latest of them if there is no room for all."""
        room = self._index.capacity
        if sum(len(text) + 1 for text in texts) > room:
            room -= int(room * _FREED)
            while texts and sum(len(text) + 1 for text in texts) > room:
                texts = texts[1:]
        self._texts = list(texts)
        between = np.array([_BETWEEN], np.int32)
        parts = [part for text in self._texts for part in (text, between)]
        self._index.update(np.concatenate(parts) if parts else np.empty(0, np.int32))


def _until(continuation: list[int]) -> list[int]:
    """The tokens before the end of their text."""
    return continuation[: continuation.index(_BETWEEN)] if _BETWEEN in continuation else continuation
