"""Copies of what the open levels hold, to be put back later: the KV rows in use, and the committed tokens.

Rows are copied, not computed again. So an answer that continues the same tokens is bit for bit the one it would have
been, however the rows had been computed: in chunks of a prompt, or as drafts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from runtime.arrays import TokenArray
from runtime.decoding.context import Context
from runtime.sessions.errors import OtherSessionError
from runtime.sessions.held import HeldLevel
from runtime.sessions.identity import Identity


@dataclass(frozen=True)
class LevelRows:
    """The rows of one level: ``tokens`` int32 ``[rows]``, and for every key and value of the graph, in its order, an
    array ``[kv_heads, rows, head_size]`` of the cache's type; then its states (``HeldLevel.arrays``), which lack
    ``behind`` rows."""

    identity: Identity
    tokens: TokenArray
    arrays: tuple[npt.NDArray[Any], ...]
    behind: int

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.tokens.nbytes + sum(array.nbytes for array in self.arrays)


@dataclass(frozen=True)
class Snapshot:
    """What an engine held between two answers: a copy, which nothing changes.

    ``tokens`` are the committed ones, int32; the last of them has no row yet. ``left_out`` tokens of the conversation
    came before them. ``levels`` has the rows of all levels that were open, by name.
    """

    tokens: TokenArray
    left_out: int
    levels: Mapping[str, LevelRows]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.tokens.nbytes + sum(level.nbytes for level in self.levels.values())


def take_snapshot(held: Sequence[HeldLevel], context: Context) -> Snapshot:
    """A copy of what the levels and the context hold."""
    levels = {
        level.name: LevelRows(
            level.identity, level.tokens.copy(), tuple(array.copy() for array in level.arrays), level.behind
        )
        for level in held
    }
    return Snapshot(context.tokens.copy(), context.first, levels)


def put_back(snapshot: Snapshot, held: Sequence[HeldLevel], context: Context) -> None:
    """Makes the levels and the context hold what ``snapshot`` has; a drafter without room for its rows keeps its own.

    OtherSessionError, and nothing changes, where the target cannot hold its rows.
    """
    target, *_ = held
    rows = snapshot.levels.get(target.name)
    if rows is None:
        raise OtherSessionError("the snapshot cannot be put back: it is of another bundle", "use the engine it is of")
    target.require("the snapshot", rows.identity, len(rows.tokens), rows.behind, context, len(snapshot.tokens))
    for level in held:
        rows = snapshot.levels.get(level.name)
        if rows is not None and level.fault(rows.identity, len(rows.tokens), rows.behind) is None:
            places = level.empty(len(rows.tokens), rows.behind)
            for place, array in zip(places, rows.arrays, strict=True):
                place[...] = array
            level.keep(rows.tokens, places, rows.behind)
    context.hold(snapshot.tokens)
    context.first = snapshot.left_out
