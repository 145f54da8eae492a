"""The latest conversations beside the current one: copies of the target's rows, put back when one of them goes on.

Drafters read their window again. The plan says how many may be kept, and counts their bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.arrays import TokenArray
from runtime.decoding.context import Context, shared_prefix
from runtime.sessions.held import HeldLevel
from runtime.sessions.snapshot import Snapshot, put_back, take_snapshot

# Fewer rows than this are read again: copying takes as long, and a place for another conversation.
_FEW_ROWS = 32


class KeptConversations:
    """At most ``limit`` copies, the one that was used last at the end; one more while two change places."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: list[Snapshot] = []

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Bytes of all copies."""
        return sum(snapshot.nbytes for snapshot in self._kept)

    def allow(self, limit: int) -> None:
        """Keeps at most ``limit`` from now on, the latest ones."""
        self.limit = limit
        self._drop_beyond(limit)

    def _drop_beyond(self, count: int) -> None:
        del self._kept[: max(len(self._kept) - count, 0)]

    def turn_to(self, tokens: Sequence[int], target: HeldLevel, context: Context) -> None:
        """Brings back what is kept of the prompt ``tokens``, if it is more than ``target`` holds of it.

        What ``target`` holds of another conversation is kept in its place.
        """
        held = target.tokens
        here = shared_prefix(held, tokens[:-1])
        best, there = None, here + _FEW_ROWS - 1
        for snapshot in self._kept:
            shared = shared_prefix(self._rows(snapshot, target), tokens[:-1])
            if shared > there:
                best, there = snapshot, shared
        # A prompt that is held as a whole is the same conversation, answered once more.
        if best is not None:
            self._kept = [each for each in self._kept if each is not best]
        if self.limit and here < len(tokens) - 1 and len(held) - here >= _FEW_ROWS:
            self._keep(target, context)
        if best is not None:
            put_back(best, [target], context)

    def _keep(self, target: HeldLevel, context: Context) -> None:
        """Keeps what ``target`` holds, without earlier states of it; the oldest copies make room."""
        self._kept = [each for each in self._kept if not self._is_begun_by(each, target)]
        self._drop_beyond(self.limit - 1)
        self._kept.append(take_snapshot([target], context))

    def _is_begun_by(self, snapshot: Snapshot, target: HeldLevel) -> bool:
        """Whether ``snapshot`` is an earlier state of what ``target`` holds."""
        rows = self._rows(snapshot, target)
        return len(rows) <= len(target.tokens) and shared_prefix(rows, target.tokens) == len(rows)

    @staticmethod
    def _rows(snapshot: Snapshot, target: HeldLevel) -> TokenArray:
        return snapshot.levels[target.name].tokens
