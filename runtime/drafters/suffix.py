"""Repetition as a drafter: what followed the last tokens earlier in the conversation may follow them again.

As in SuffixDecoding (arXiv 2411.04975), the draft is the continuation with the most expected accepted tokens, and that
expectation decides how long it is, and whether there is one. The index is not a suffix tree with counts, but hash
chains as in LZ77: for two lengths of context, the positions after its earlier occurrences, the latest first. It takes
``BYTES_PER_TOKEN``, adds or removes a token in constant time, and a draft reads a bounded number of occurrences.
Nothing is remembered beyond the context, unless the user wants that (``suffix_store``).
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from runtime.arrays import TokenArray
from runtime.decoding.context import Context, shared_prefix
from runtime.decoding.draft import Draft, DraftLimit
from runtime.drafters.best_first import Continued, draft_best_first

# The size of the index for each token of the context's capacity: the token and its running hash (4 + 8 bytes), and for
# each of the two lengths a link (4) and at most two table entries (8).
BYTES_PER_TOKEN = 4 + 8 + 2 * (4 + 8)

# The lengths of context that are indexed. The short one finds every match; the long one finds long matches that are not
# among the latest short ones.
_SHORT, _LONG = 2, 6
# The number of occurrences that are read for each length: the latest ones.
_MAX_OCCURRENCES = 24
# Longer matches count as this many tokens.
_MAX_MATCH = 16
# An occurrence that matches m tokens has weight m. These are the weight of a token that no occurrence proposes, and
# what every token that a single occurrence proposes adds to it. Fitted to 350 answers of instruction data (log loss,
# calibrated within 0.05 above 0.2): one occurrence of a pair is right 0.41 of the time, one of 12 tokens 0.85, two that
# agree on a pair 0.81.
_NOVELTY, _NOVELTY_PER_SINGLE = 1.0, 2.0

_PIECE = 4096

_BACKWARDS = np.arange(_MAX_MATCH - 1, -1, -1, dtype=np.int32)
_BASE = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class Occurrence(NamedTuple):
    """An earlier place that equals the end of the context: the number of equal tokens, and the tokens after it."""

    match: int
    continuation: list[int]


class OtherTexts(Protocol):
    """Texts beside the conversation that may show what follows."""

    def occurrences(self, tokens: TokenArray, depth: int) -> list[Occurrence]:
        """Places that match at least the last two of ``tokens``, each with up to ``depth`` tokens after it."""
        ...


# The usual longest chain. It can be long, because a match is right for a long stretch or not at all, and short matches
# draft less.
LONGEST = 7
NAME = "suffix"


class Repetition:
    """Earlier places like the end of a context: in it, and in ``others``."""

    def __init__(self, others: OtherTexts | None = None) -> None:
        self._others = others
        self._index = SuffixIndex(0)

    @property
    def nbytes(self) -> int:
        """The size of the index of the context in bytes."""
        return self._index.nbytes

    def find(self, context: Context, depth: int) -> list[Occurrence]:
        """The occurrences with up to ``depth`` tokens behind each, the longest matches first."""
        if context.capacity > self._index.capacity:
            self._index = SuffixIndex(context.capacity)
        self._index.update(context.tokens)
        if depth <= 0:
            return []
        found = self._index.occurrences(depth)
        if self._others is not None:
            found += self._others.occurrences(context.tokens, depth)
            found.sort(key=lambda occurrence: -occurrence.match)
        return found


class SuffixDrafter:
    """Drafts from prompt, answer and earlier turns, without a model or training.

    A node is proposed if the occurrences give it, with all nodes above it, at least the chance ``limit.floor`` (if that
    is 0, ``min_chance``), and if its depth is at most ``reach`` times the length of the match. ``Draft.expected`` is
    the sum of these chances. Drafts are ONE_HOT, and many are empty. Occurrences in ``others`` count like those in the
    conversation.
    """

    def __init__(
        self, name: str = NAME, min_chance: float = 0.25, reach: float = 2.0, others: OtherTexts | None = None
    ) -> None:
        self.name = name
        self._min_chance, self._reach = min_chance, reach
        self._repetition = Repetition(others)

    @property
    def nbytes(self) -> int:
        """The size of the index in bytes."""
        return self._repetition.nbytes

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        """See ``Drafter``."""
        limit = limit.within(limit.nodes, limit.nodes)
        occurrences = self._repetition.find(context, limit.depth)
        return draft_best_first(self._following, occurrences, limit, limit.floor or self._min_chance, self.name)

    def _following(self, occurrences: list[Occurrence], depth: int) -> list[Continued[list[Occurrence]]]:
        """See ``following``; nothing beyond the reach of the best match."""
        if not occurrences or depth >= self._reach * occurrences[0].match:
            return []
        return following(occurrences, depth)


def following(occurrences: list[Occurrence], depth: int) -> list[Continued[list[Occurrence]]]:
    """The next tokens after ``depth`` tokens on which all ``occurrences`` agree: chance, token, and its occurrences.

    The most probable comes first, at a tie the lower token id. Each of the ``depth`` tokens makes a match one longer.
    """
    groups: defaultdict[int, list[Occurrence]] = defaultdict(list)
    weight = _NOVELTY
    for occurrence in occurrences:
        if depth < len(occurrence.continuation):
            groups[occurrence.continuation[depth]].append(occurrence)
            weight += occurrence.match + depth
    weight += _NOVELTY_PER_SINGLE * sum(len(group) == 1 for group in groups.values())
    shares = [
        Continued(sum(occurrence.match + depth for occurrence in group) / weight, token, group)
        for token, group in groups.items()
    ]
    return sorted(shares, key=lambda share: (-share.chance, share.token))


class SuffixIndex:
    """The positions after every sequence of 2 and of 6 tokens, for at most ``capacity`` tokens.

    ``_heads[n]`` maps the hash of n tokens to the latest position after them. ``_links[n][i]`` is the next older
    position after the n tokens before position i, or after others of equal hash; 0 if there is none. Tokens are removed
    in reverse order, which undoes their additions.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._length = 0
        # The tokens are preceded by values that no token equals, so that every match ends there.
        self._padded = np.full(_MAX_MATCH + capacity, -1, np.int32)
        self._tokens = self._padded[_MAX_MATCH:]
        self._hashes = array("Q", bytes(8 * (capacity + 1)))  # of the first i tokens
        self._bits = max(1, (capacity - 1).bit_length())
        self._heads = {n: array("i", bytes(4 << self._bits)) for n in (_LONG, _SHORT)}
        self._links = {n: array("i", bytes(4 * capacity)) for n in (_LONG, _SHORT)}
        self._powers = {n: pow(_BASE, n, 1 << 64) for n in (_LONG, _SHORT)}

    @property
    def nbytes(self) -> int:
        """The size of all arrays in bytes."""
        arrays = [self._hashes, *self._heads.values(), *self._links.values()]
        return self._padded.nbytes + sum(len(held) * held.itemsize for held in arrays)

    def update(self, tokens: TokenArray) -> None:
        """Indexes ``tokens``, int32 ``[length]``, in place of the earlier ones; keeps the common prefix."""
        shared = shared_prefix(self._tokens[: self._length], tokens)
        for position in range(self._length - 1, shared - 1, -1):
            self._remove(position)
        self._tokens[shared : len(tokens)] = tokens[shared:]
        for start in range(shared, len(tokens), _PIECE):  # a list of all takes nine times their bytes
            for position, token in enumerate(tokens[start : start + _PIECE].tolist(), start):
                self._hashes[position + 1] = (self._hashes[position] * _BASE + token + 1) & _MASK
                self._add(position)
        self._length = len(tokens)

    def occurrences(self, depth: int) -> list[Occurrence]:
        """Earlier places that match at least the last two tokens, each with up to ``depth`` tokens after it.

        The longest match comes first, among equal lengths the latest.
        """
        return self.occurrences_of(self._tokens[: self._length], depth)

    def occurrences_of(self, text: TokenArray, depth: int) -> list[Occurrence]:
        """The same for places that match the end of another ``text``, int32 ``[length]``."""
        text = text[-_MAX_MATCH:]
        found = self._positions(text)
        if not found:
            return []
        matches = self._match_lengths(np.array(found, np.int32), text).tolist()
        ranked = sorted(
            ((match, place) for match, place in zip(matches, found, strict=True) if match >= _SHORT), reverse=True
        )
        tokens, end = self._tokens, self._length
        return [Occurrence(match, tokens[place : min(place + depth, end)].tolist()) for match, place in ranked]

    def _positions(self, text: TokenArray) -> list[int]:
        """The latest positions after what ``text`` ends with, for both lengths; some may be hash collisions."""
        found: dict[int, None] = {}
        for n in (_LONG, _SHORT):
            if min(len(text), self._length) < n:
                continue
            hashed = 0
            for token in text[-n:].tolist():
                hashed = (hashed * _BASE + token + 1) & _MASK
            position, links = self._heads[n][self._place(hashed)], self._links[n]
            for _ in range(_MAX_OCCURRENCES):
                if not position:
                    break
                found[position] = None
                position = links[position]
        return list(found)

    def _match_lengths(self, positions: npt.NDArray[np.int32], text: TokenArray) -> npt.NDArray[np.intp]:
        """The number of tokens before each position that equal the last ones of ``text``, at most ``_MAX_MATCH``."""
        windows = self._padded[positions[:, None] + _BACKWARDS]
        suffix = np.full(_MAX_MATCH, -2, np.int32)  # beyond its beginning nothing equals it
        suffix[: len(text)] = text[::-1]
        equal = np.zeros((len(positions), _MAX_MATCH + 1), np.bool_)
        np.equal(windows, suffix, out=equal[:, :-1])
        lengths: npt.NDArray[np.intp] = equal.argmin(axis=1)
        return lengths

    def _add(self, position: int) -> None:
        for n in (_LONG, _SHORT):
            if position >= n:
                slot = self._slot(n, position)
                self._links[n][position] = self._heads[n][slot]
                self._heads[n][slot] = position

    def _remove(self, position: int) -> None:
        for n in (_LONG, _SHORT):
            if position >= n:
                self._heads[n][self._slot(n, position)] = self._links[n][position]

    def _slot(self, n: int, position: int) -> int:
        """The table entry for the n tokens before ``position``: the top bits of their hash."""
        return self._place(self._hashes[position] - self._hashes[position - n] * self._powers[n])

    def _place(self, hashed: int) -> int:
        return ((hashed * _BASE) & _MASK) >> (64 - self._bits)
