"""One answer's place in a grammar, on llguidance's matcher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from runtime.constraints.request import ConstraintError
from runtime.decoding.constraint import Bits
from runtime.decoding.stop import Cut

if TYPE_CHECKING:
    import llguidance

_Told = TypeVar("_Told")


class Compiled:
    """A constraint at its beginning, as ``make`` compiles it.

    All that begins with it shares the states of its lexer, which the library adds to and never forgets, up to a limit.
    """

    def __init__(self, make: Callable[[], llguidance.LLMatcher]) -> None:
        self._make = make
        self._inner: llguidance.LLMatcher | None = make()

    def begin(self) -> llguidance.LLMatcher:
        """The library's matcher at the beginning."""
        inner = self._inner = self._inner or self._make()
        return inner.deep_copy()

    def forget(self) -> None:
        """Forgets the states of the lexer."""
        self._inner = None


class Matcher:
    """See ``decoding.constraint.Constraint``. It moves along drafted paths, and back to where two paths part.

    ``compiled`` is the constraint ``name``. The library's matcher has consumed the answer's tokens up to where they
    leave the language: by an end token, or by one that is not allowed. ``ends`` are the end tokens, ``size`` is the
    number of logits. ConstraintError if following the constraint takes more than llguidance's limits allow.
    """

    def __init__(self, compiled: Compiled, ends: frozenset[int], size: int, name: str) -> None:
        self._compiled, self._inner = compiled, compiled.begin()
        self._ends, self._size, self._name = ends, size, name
        end_tokens = np.zeros(-(-size // 8) * 8, np.bool_)
        end_tokens[list(ends)] = True
        self._after_end: Bits = np.packbits(end_tokens, bitorder="little")
        self._anything: Bits = np.full_like(self._after_end, 0xFF)
        self._committed: list[int] = []
        # Tokens behind the committed ones where the matcher is now, and how many tokens of both ``inner`` consumed.
        self._path: list[int] = []
        self._consumed = 0
        # How many of them were consumed once more when the library had kept too much.
        self._restarted = 0
        # For each token of the path whether nothing can follow it any more.
        self._final: list[bool] = []
        self._masks: dict[tuple[int, ...], Bits] = {}

    def mask(self, path: Sequence[int] = ()) -> Bits:
        """See ``Constraint``."""
        key = tuple(path)
        if key not in self._masks:
            self._move(path)
            self._masks[key] = self._compute()
        return self._masks[key]

    def _compute(self) -> Bits:
        if self._beyond:
            return self._after_end if self._may_stand else self._anything
        bits = np.frombuffer(self._ask(_bitmask), np.uint8)
        if not bits.any():
            raise ConstraintError("the constraint allows no token here; it can have no answer")
        return bits

    def allows(self, path: Sequence[int], token: int) -> bool:
        """See ``Constraint``."""
        known = self._masks.get(tuple(path))
        if known is not None:
            return bool(known[token >> 3] >> (token & 7) & 1)
        self._move(path)
        if self._beyond:
            return not self._may_stand or token in self._ends
        forced = self._ask(lambda inner: inner.compute_ff_tokens())
        if token in self._ends:
            return not forced and self._ask(lambda inner: inner.is_accepting())
        return token == forced[0] if forced else self._ask(lambda inner: inner.validate_tokens([token])) == 1

    @property
    def is_complete(self) -> bool:
        """Whether nothing but an end token may follow."""
        return self._ends.issuperset(np.flatnonzero(np.unpackbits(self.mask(), bitorder="little")).tolist())

    def count_allowed(self, tokens: Sequence[int]) -> int:
        """See ``Constraint``."""
        for count in range(len(tokens), 0, -1):
            self._move(tokens[:count])
            if self._may_stand:
                return count
        return 0

    def forced(self) -> Sequence[int]:
        """See ``Constraint``."""
        self._move(())
        return [] if self._beyond else self._ask(lambda inner: inner.compute_ff_tokens())

    def end(self, tokens: Sequence[int]) -> Cut | None:
        """See ``Constraint``."""
        self._move(tokens)
        count = next((place for place, is_final in enumerate(self._final, 1) if is_final), None)
        return None if count is None else Cut(count, "eos" if tokens[count - 1] in self._ends else "stop")

    def append(self, tokens: Sequence[int]) -> None:
        """See ``Constraint``."""
        self._move(tokens)
        self._committed += self._path
        self._path, self._final = [], []
        self._masks.clear()

    def take_back(self, count: int) -> None:
        """See ``Constraint``."""
        self._move(())
        place = len(self._committed) - count
        self._path, self._committed = self._committed[place:], self._committed[:place]
        self._final = [False] * len(self._path)  # not known, nor asked for
        self._masks.clear()
        self._move(())

    def fork(self) -> Matcher:
        """See ``Constraint``."""
        self._move(())
        other = Matcher.__new__(Matcher)
        other.__dict__.update(self.__dict__)
        other._inner = self._inner.deep_copy()
        other._committed, other._path, other._final = self._committed.copy(), [], []
        other._masks = self._masks.copy()
        return other

    @property
    def _beyond(self) -> list[int]:
        """The tokens from where the answer left the language on."""
        place = self._consumed - len(self._committed)
        return self._path[place:] if place >= 0 else [*self._committed[place:], *self._path]

    @property
    def _may_stand(self) -> bool:
        """Whether the answer may be as it is: nothing but end tokens follow the language, and only where it may end."""
        beyond = self._beyond
        return not beyond or (self._ends.issuperset(beyond) and self._inner.is_accepting())

    def _move(self, path: Sequence[int]) -> None:
        """Goes to ``path`` behind the committed tokens."""
        kept = 0
        while kept < min(len(path), len(self._path)) and path[kept] == self._path[kept]:
            kept += 1
        length = len(self._committed) + kept
        if self._consumed > length:
            self._inner.rollback(self._consumed - length)
            self._consumed = length
        del self._path[kept:], self._final[kept:]
        for token in path[kept:]:
            if not self._beyond and token not in self._ends and 0 <= token < self._size:
                self._consume(int(token))
            self._path.append(int(token))
            self._final.append(bool(self._beyond) or self._inner.is_stopped())

    def _consume(self, token: int) -> None:
        self._consumed += self._ask(lambda inner: inner.try_consume_tokens([token]))

    def _ask(self, question: Callable[[llguidance.LLMatcher], _Told]) -> _Told:
        """The library's answer where the matcher is.

        Its limit counts the states of all answers so far. So if that is met, it is asked once more with nothing kept
        but what the tokens up to here lead to; not again before these are a quarter more, as following them takes time.
        """
        answer = question(self._inner)
        if self._inner.is_error() and self._consumed >= 1.25 * self._restarted:
            self._restarted = self._consumed
            self._compiled.forget()
            self._inner = self._compiled.begin()
            self._inner.try_consume_tokens([*self._committed, *self._path][: self._consumed])
            answer = question(self._inner)
        if self._inner.is_error():
            raise ConstraintError(
                f"{self._name} cannot be followed any further ({one_line(self._inner.get_error())}); make it simpler:"
                " smaller counts in {m,n} and maxLength, fewer alternatives"
            )
        return answer


def _bitmask(inner: llguidance.LLMatcher) -> bytes:
    try:
        return inner.compute_bitmask()
    except ValueError:
        return b""


def one_line(error: str) -> str:
    """The library's message without its state, which is long and may show the answer."""
    return " ".join(error.partition("<state>")[0].partition("<backtrace>")[0].split())[:300]
