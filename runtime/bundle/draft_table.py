"""The draft table of a bundle: what followed one, two and three tokens in the texts that it was exported with.

The file is of little-endian numbers. Eight int64: a mark, the size of the vocabulary, then for each of three lengths of
context how many contexts and how many entries there are. For each length, the contexts in ascending order, int64: a
context of tokens a, b, c is the number (a * V + b) * V + c, with V the size of the vocabulary. For each length, five
arrays of int32: of every context the number of its first entry, with one number more at the end; how often it was seen;
how many different tokens were seen after it; then the token of every entry, and how often it followed. The entries of a
context are its most frequent ones, the first one leading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from export.manifest import DRAFT_TABLE_NAME, Manifest, ManifestError

MARK = int.from_bytes(b"drafts 1", "little")
LENGTHS = 3
# Of a vocabulary, so that a context of three tokens is one int64.
MOST_TOKENS = 1 << 21
_HEADER = 2 + 2 * LENGTHS


@dataclass(frozen=True)
class Followers:
    """What followed a context that was ``seen`` so often, by ``distinct`` tokens: the most frequent ``tokens``."""

    seen: int
    distinct: int
    tokens: Sequence[int]
    counts: Sequence[int]


class DraftTable:
    """A table in a mapped file. ManifestError unless its numbers fit together, and the vocabulary of ``manifest``."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._vocab_size = manifest.target.shape.vocab_size
        try:
            data = np.memmap(path, np.uint8, "r")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is empty"
            raise ManifestError(f"{path} cannot be read ({reason}); export the bundle again") from None
        self._lengths = _parse(data, self._vocab_size)
        if not self._lengths:
            raise ManifestError(
                f"{path} is no draft table for a vocabulary of {self._vocab_size:,}; export the bundle again"
            )

    def followers(self, context: Sequence[int]) -> Followers | None:
        """What followed the one to three tokens of ``context``; None if they were not seen."""
        key = 0
        for token in context:
            key = key * self._vocab_size + token
        return self._lengths[len(context) - 1].find(key)


def open_draft_table(bundle: Path, manifest: Manifest) -> DraftTable | None:
    """The table of a bundle; None if it has none. ManifestError for a file that is not one."""
    return DraftTable(bundle / DRAFT_TABLE_NAME, manifest) if DRAFT_TABLE_NAME in manifest.files else None


@dataclass(frozen=True)
class _ContextsOfLength:
    """The arrays of one length of context; see the head of this file."""

    keys: npt.NDArray[np.int64]
    first: npt.NDArray[np.int32]
    seen: npt.NDArray[np.int32]
    distinct: npt.NDArray[np.int32]
    tokens: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int32]

    def find(self, key: int) -> Followers | None:
        place = int(np.searchsorted(self.keys, key))
        if place == len(self.keys) or self.keys[place] != key:
            return None
        entries = slice(int(self.first[place]), int(self.first[place + 1]))
        tokens, counts = self.tokens[entries].tolist(), self.counts[entries].tolist()
        return Followers(int(self.seen[place]), int(self.distinct[place]), tokens, counts)

    def is_valid(self, vocab_size: int) -> bool:
        """Whether what is found in it is possible."""
        before = np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])
        return bool(
            (np.diff(self.keys) > 0).all()
            and self.first[0] == 0
            and self.first[-1] == len(self.tokens)
            and (np.diff(self.first) >= 0).all()
            and (self.seen > 0).all()
            and (self.distinct > 0).all()
            and (self.tokens >= 0).all()
            and (self.tokens < vocab_size).all()
            and (self.counts > 0).all()
            and (before[self.first[1:]] - before[self.first[:-1]] <= self.seen).all()
        )


def _parse(data: npt.NDArray[np.uint8], vocab_size: int) -> list[_ContextsOfLength]:
    """The arrays in ``data``; none if it has anything else."""
    if len(data) < 8 * _HEADER:
        return []
    mark, size, *numbers = data[: 8 * _HEADER].view("<i8").tolist()
    contexts, entries = numbers[::2], numbers[1::2]
    needed = 8 * _HEADER + sum(8 * c + 4 * (3 * c + 1 + 2 * e) for c, e in zip(contexts, entries, strict=True))
    if (mark, size) != (MARK, vocab_size) or size > MOST_TOKENS or min(numbers) < 0 or needed != len(data):
        return []
    begin = 8 * (_HEADER + sum(contexts))
    keys, others = data[8 * _HEADER : begin].view("<i8"), data[begin:].view("<i4")
    parts = []
    for c, e in zip(contexts, entries, strict=True):
        arrays = np.split(others[: 3 * c + 1 + 2 * e], np.cumsum([c + 1, c, c, e]))
        parts.append(_ContextsOfLength(keys[:c], *arrays))
        keys, others = keys[c:], others[3 * c + 1 + 2 * e :]
    return parts if all(part.is_valid(vocab_size) for part in parts) else []
