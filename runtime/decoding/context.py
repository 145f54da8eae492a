"""The committed tokens of a conversation, and the settings with which they are sampled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtime.arrays import TokenArray
from runtime.decoding.constraint import Constraint
from runtime.decoding.sampling import SamplingParams
from runtime.errors import ContextFullError


class Context:
    """The committed tokens, in one buffer that is allocated once, and the current sampling settings.

    Drafters and verifiers read it; only the decoding loop and the engine write it. If it holds only the end of a
    conversation, ``first`` tokens come before. ``constraint`` is that of the answer, None: any token may follow; it is
    where the answer is.
    """

    def __init__(self, capacity: int, sampling: SamplingParams, first: int = 0) -> None:
        self._buffer = np.zeros(capacity, np.int32)
        self._length = 0
        self.sampling = sampling
        self.first = first
        self.constraint: Constraint | None = None

    def __len__(self) -> int:
        return self._length

    @property
    def position(self) -> int:
        """The position of the next token in the conversation, which determines its random numbers."""
        return self.first + self._length

    @property
    def capacity(self) -> int:
        """The most tokens that it can hold."""
        return len(self._buffer)

    @property
    def tokens(self) -> TokenArray:
        """A view of the committed tokens, int32 ``[len(self)]``, valid until the next change."""
        return self._buffer[: self._length]

    def hold(self, tokens: Sequence[int] | TokenArray) -> None:
        """Holds ``tokens`` in place of what it held: a prompt, or what is kept of it and its answer.

        The constraint stays where the answer is.
        """
        self._length = 0
        self._write(tokens)

    def append(self, tokens: Sequence[int]) -> None:
        """Commits ``tokens`` of the answer."""
        if self.constraint is not None:
            self.constraint.append(tokens)
        self._write(tokens)

    def truncate(self, length: int) -> None:
        """Forgets every token of the answer past ``length``."""
        forgotten = self._length - length
        if forgotten > 0:
            self._length = length
            if self.constraint is not None:
                self.constraint.take_back(forgotten)

    def _write(self, tokens: Sequence[int] | TokenArray) -> None:
        end = self._length + len(tokens)
        self._buffer[self._length : end] = tokens
        self._length = end


def require_room(num_tokens: int, capacity: int) -> None:
    """ContextFullError unless a prompt of ``num_tokens`` leaves room for an answer in a context of ``capacity``."""
    if not 1 <= num_tokens < capacity:
        raise ContextFullError(
            f"a prompt of {num_tokens} tokens; allowed are 1 to {capacity - 1} in a context of {capacity}:"
            " shorten the text or open the bundle with a larger context"
        )


def shared_prefix(left: Sequence[int] | TokenArray, right: Sequence[int] | TokenArray) -> int:
    """The length of the common prefix of two sequences."""
    length = min(len(left), len(right))
    differs = np.nonzero(np.asarray(left[:length]) != np.asarray(right[:length]))[0]
    return int(differs[0]) if len(differs) else length
