"""One answer's place in a grammar, on llguidance's matcher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from runtime.constraints.request import ConstraintError
from runtime.decoding.constraint import Bits
from runtime.decoding.stop import Cut

if TYPE_CHECKING:
    import llguidance


class Matcher:
    """See ``decoding.constraint.Constraint``. It moves along drafted paths, and back to where two paths part.

    ``inner`` has consumed the answer's tokens up to its end; end tokens, and what follows them in a draft, are counted
    here alone. ``ends`` are the end tokens, ``size`` is the number of logits. ConstraintError if following the
    constraint takes more than llguidance's limits allow.
    """

    def __init__(self, inner: llguidance.LLMatcher, ends: frozenset[int], size: int) -> None:
        self._inner, self._ends = inner, ends
        at_end = np.zeros(-(-size // 8) * 8, np.bool_)
        at_end[list(ends)] = True
        self._at_end: Bits = np.packbits(at_end, bitorder="little")
        self._committed: list[int] = []
        # Tokens behind the committed ones where the matcher is now, and how many tokens of both ``inner`` consumed.
        self._path: list[int] = []
        self._consumed = 0
        self._masks: dict[tuple[int, ...], Bits] = {}

    def mask(self, path: Sequence[int] = ()) -> Bits:
        """See ``Constraint``."""
        key = tuple(path)
        if key not in self._masks:
            self._move(path)
            self._masks[key] = self._at_end if self._is_over else self._compute()
        return self._masks[key]

    def _compute(self) -> Bits:
        try:
            bits = np.frombuffer(self._inner.compute_bitmask(), np.uint8)
        except ValueError:
            bits = self._at_end[:0]
        self._check()
        if not bits.any():
            raise ConstraintError("the constraint allows no token here; it can have no answer")
        return bits

    def count_allowed(self, tokens: Sequence[int]) -> int:
        """See ``Constraint``."""
        self._move(())
        ordinary = next((place for place, token in enumerate(tokens) if token in self._ends), len(tokens))
        count = 0 if self._is_over else int(self._inner.validate_tokens(list(tokens[:ordinary])))
        if count < ordinary or count == len(tokens):
            return count
        self._move(tokens[:count])
        if not self._is_over and not self._inner.is_accepting():
            return count
        return next((place for place in range(count, len(tokens)) if tokens[place] not in self._ends), len(tokens))

    def forced(self) -> Sequence[int]:
        """See ``Constraint``."""
        self._move(())
        found = [] if self._is_over else self._inner.compute_ff_tokens()
        self._check()
        return found

    def end(self, tokens: Sequence[int]) -> Cut | None:
        """See ``Constraint``."""
        for count in range(1, len(tokens) + 1):
            self._move(tokens[:count])
            if self._is_over:
                return Cut(count, "eos" if tokens[count - 1] in self._ends else "stop")
            if self._inner.is_stopped():
                return Cut(count, "stop")
        return None

    def append(self, tokens: Sequence[int]) -> None:
        """See ``Constraint``."""
        self._move(tokens)
        self._committed += self._path
        self._path = []
        self._masks.clear()

    def take_back(self, count: int) -> None:
        """See ``Constraint``."""
        self._move(())
        place = len(self._committed) - count
        self._path, self._committed = self._committed[place:], self._committed[:place]
        self._masks.clear()
        self._move(())

    def fork(self) -> Matcher:
        """See ``Constraint``."""
        self._move(())
        other = Matcher.__new__(Matcher)
        other.__dict__.update(self.__dict__)
        other._inner = self._inner.deep_copy()
        other._committed, other._path, other._masks = self._committed.copy(), [], self._masks.copy()
        return other

    @property
    def _is_over(self) -> bool:
        """Whether an end token has come."""
        return self._consumed < len(self._committed) + len(self._path)

    def _move(self, path: Sequence[int]) -> None:
        """Goes to ``path`` behind the committed tokens."""
        kept = 0
        while kept < min(len(path), len(self._path)) and path[kept] == self._path[kept]:
            kept += 1
        length = len(self._committed) + kept
        if self._consumed > length:
            self._inner.rollback(self._consumed - length)
            self._consumed = length
        del self._path[kept:]
        for token in path[kept:]:
            if not self._is_over and token not in self._ends:
                self._consume(token)
            self._path.append(token)

    def _consume(self, token: int) -> None:
        if not self._inner.consume_token(token):
            self._check()
        self._consumed += 1

    def _check(self) -> None:
        if self._inner.is_error():
            reason = one_line(self._inner.get_error())
            raise ConstraintError(f"the constraint cannot be followed any further ({reason}); make it simpler")


def one_line(error: str) -> str:
    """The library's message without its state, which is long and may show the answer."""
    return " ".join(error.partition("<state>")[0].partition("<backtrace>")[0].split())[:300]
