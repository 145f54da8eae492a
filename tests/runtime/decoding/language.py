"""A constraint without a grammar: after every prefix a random set of tokens, often a single one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtime.decoding.constraint import Bits
from runtime.decoding.stop import Cut

Tokens = tuple[int, ...]


class Language:
    """Implements ``Constraint``; equal seeds give equal languages. ``end`` may follow some prefixes, then nothing."""

    def __init__(self, vocab_size: int, seed: int = 0, end: int | None = None, prefix: Sequence[int] = ()) -> None:
        self.vocab_size, self.seed, self.ending = vocab_size, seed, end
        self.prefix: Tokens = tuple(prefix)
        self._known: dict[Tokens, set[int]] = {}

    def after(self, prefix: Tokens) -> set[int]:
        """The tokens that may follow ``prefix``."""
        if prefix not in self._known:
            self._known[prefix] = self._after(prefix)
        return self._known[prefix]

    def _after(self, prefix: Tokens) -> set[int]:
        if self.ending in prefix:
            assert self.ending is not None
            return {self.ending}
        rng = np.random.default_rng([self.seed, len(prefix), *prefix])
        if rng.random() < 0.3:
            allowed = {int(rng.integers(self.vocab_size))}
        else:
            allowed = set(np.flatnonzero(rng.random(self.vocab_size) < 0.6).tolist())
        if self.ending is not None:
            allowed.discard(self.ending)
            if len(prefix) > 5 and rng.random() < 0.2:
                allowed.add(self.ending)
        return allowed or {0}

    def mask(self, path: Sequence[int] = ()) -> Bits:
        if self.count_allowed(path) < len(path):
            return np.full(-(-self.vocab_size // 8), 0xFF, np.uint8)
        bits = np.zeros(-(-self.vocab_size // 8) * 8, np.bool_)
        bits[list(self.after((*self.prefix, *map(int, path))))] = True
        return np.packbits(bits, bitorder="little")

    def allows(self, path: Sequence[int], token: int) -> bool:
        return bool(np.unpackbits(self.mask(path), bitorder="little")[token])

    def count_allowed(self, tokens: Sequence[int]) -> int:
        whole = [*self.prefix, *map(int, tokens)]
        for place, token in enumerate(whole):
            if token not in self.after(tuple(whole[:place])):
                return max(0, place - len(self.prefix))
        return len(tokens)

    def forced(self) -> Sequence[int]:
        found: list[int] = []
        while self.ending not in self.prefix and len(self.after((*self.prefix, *found))) == 1 and len(found) < 6:
            found += self.after((*self.prefix, *found))
        return found

    def end(self, tokens: Sequence[int]) -> Cut | None:
        return Cut(list(tokens).index(self.ending) + 1, "eos") if self.ending in tokens else None

    def append(self, tokens: Sequence[int]) -> None:
        self.prefix += tuple(map(int, tokens))

    def take_back(self, count: int) -> None:
        assert count <= len(self.prefix)
        self.prefix = self.prefix[: len(self.prefix) - count]

    def fork(self) -> Language:
        other = Language(self.vocab_size, self.seed, self.ending, self.prefix)
        other._known = self._known
        return other
