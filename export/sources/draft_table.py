"""Counts what follows a few tokens in texts like the target's answers: the draft table of a bundle.

The layout of the file is described in ``runtime/bundle/draft_table.py``, which reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from export.sources.texts import TextError, text_parts

OPTION = "--draft-table"
# More tokens are left unread: counting takes 67 bytes a token for a moment (measured with 4 million, 2026-11-30), and
# an export is to stay within 1.2 GB.
_MOST_TEXT = 8_000_000
# The most bytes of a table: entries that were seen least are left out.
_MOST_BYTES = 8 << 20
_LENGTHS, _MOST_ENTRIES = 3, 8
_MOST_TOKENS = 1 << 21  # of a vocabulary, so that a context of three tokens is one int64
# A continuation that was seen once is chance.
_LEAST_SEEN = 2
_MARK = int.from_bytes(b"drafts 1", "little")
# Of one context, and of one entry.
_CONTEXT_BYTES, _ENTRY_BYTES = 20, 8

Ints = npt.NDArray[np.int64]


def count_table(texts: Sequence[Path], tokenizer_folder: Path | None, vocab_size: int) -> bytes:
    """The draft table of UTF-8 ``texts``; TextError if they cannot be read or are too short to repeat anything."""
    if tokenizer_folder is None or not (tokenizer_folder / "tokenizer.json").is_file():
        raise TextError(f"{OPTION}: the target has no tokenizer to read texts with; drop it")
    if vocab_size > _MOST_TOKENS:
        raise TextError(f"{OPTION}: the target has {vocab_size:,} tokens, a table at most {_MOST_TOKENS:,}; drop it")
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    tokens = np.concatenate([np.zeros(0, np.int64), *_encoded(texts, tokenizer, vocab_size)])[:_MOST_TEXT]
    counted = [_count(tokens, length, vocab_size) for length in range(1, _LENGTHS + 1)]
    if not counted[0].contexts:
        names = ", ".join(path.name for path in texts)
        raise TextError(f"{OPTION} {names}: nothing in it comes twice; give more text like the target's answers")
    least = _LEAST_SEEN
    while sum(each.bytes_of(least) for each in counted) > _MOST_BYTES:
        least += 1
    return _file([each.only(least) for each in counted], vocab_size)


def _encoded(texts: Sequence[Path], tokenizer: Tokenizer, vocab_size: int) -> Iterator[Ints]:
    read = 0
    for path in texts:
        for part in text_parts(path, OPTION):
            if read >= _MOST_TEXT:
                return
            ids = np.array(tokenizer.encode(part, add_special_tokens=False).ids, np.int64)
            yield (ids := ids[ids < vocab_size])
            read += len(ids)


@dataclass(frozen=True)
class _Counted:
    """What followed contexts of one length. Of each context, in ascending order: ``keys``, ``seen``, ``distinct``. Of
    each entry, by context and then most frequent first: ``owners``, the number of its context, ``tokens``, ``counts``.
    """

    keys: Ints
    seen: Ints
    distinct: Ints
    owners: Ints
    tokens: Ints
    counts: Ints

    @property
    def contexts(self) -> int:
        return len(self.keys)

    def bytes_of(self, least: int) -> int:
        """The bytes of the entries that were seen ``least`` times, with their contexts."""
        kept = self.counts >= least
        return _CONTEXT_BYTES * len(np.unique(self.owners[kept])) + _ENTRY_BYTES * int(kept.sum())

    def only(self, least: int) -> _Counted:
        """The entries that were seen ``least`` times, with their contexts."""
        kept = self.counts >= least
        contexts, owners = np.unique(self.owners[kept], return_inverse=True)
        return _Counted(
            self.keys[contexts],
            self.seen[contexts],
            self.distinct[contexts],
            owners,
            self.tokens[kept],
            self.counts[kept],
        )


def _count(tokens: Ints, length: int, vocab_size: int) -> _Counted:
    """What follows ``length`` tokens, where it comes twice."""
    rows = max(0, len(tokens) - length)
    spelled = np.zeros(rows, np.int64)
    for place in range(length):
        spelled = spelled * vocab_size + tokens[place : place + rows]
    keys, owners = np.unique(spelled, return_inverse=True)
    pairs, counts = np.unique(owners * vocab_size + tokens[length:], return_counts=True)
    owners = pairs // vocab_size
    seen = np.bincount(owners, counts, len(keys)).astype(np.int64)
    distinct = np.bincount(owners, minlength=len(keys))
    order = np.lexsort((pairs, -counts, owners))
    owners, counts, followers = owners[order], counts[order], pairs[order] % vocab_size
    begins = np.searchsorted(owners, np.arange(len(keys)))
    rank = np.arange(len(owners)) - begins[owners]
    kept = (rank < _MOST_ENTRIES) & (counts >= _LEAST_SEEN)
    return _Counted(keys, seen, distinct, owners[kept], followers[kept], counts[kept]).only(_LEAST_SEEN)


def _file(counted: Sequence[_Counted], vocab_size: int) -> bytes:
    """The bytes of the file."""
    numbers = [number for each in counted for number in (each.contexts, len(each.tokens))]
    parts = [np.array([_MARK, vocab_size, *numbers], "<i8"), *(each.keys.astype("<i8") for each in counted)]
    for each in counted:
        first = np.searchsorted(each.owners, np.arange(each.contexts + 1))
        for values in (first, each.seen, each.distinct, each.tokens, each.counts):
            parts.append(values.astype("<i4"))
    return b"".join(part.tobytes() for part in parts)
