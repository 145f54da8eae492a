"""Which row counts of a forward agree bit for bit, found by trying them on this device with this model.

A kernel may take another path for one row than for four, and then the last bits of the logits depend on how many rows
were verified together; quantized activations turn a last bit into a visible difference, which can flip an argmax. So
the decoding loop runs every step, plain ones included, at widths that agree with one another; other row counts are
padded to the next one that does.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from runtime.decoding.protocols import Cache, Model

# Long enough that keys span several vector registers and more than one block of a blocked softmax.
_PREFIX_ROWS = 40
_NO_WIDTH = 1 << 31
# A row and its padding.
_PLAIN_ROWS = 2
# A tree that can tell: the anchor, two children, and a path behind the second.
_TREE_ROWS = 6


class ReadableCache(Cache, Protocol):
    """A cache whose keys and values can be compared: ``arrays``, each ``[1, kv_heads, rows, head_size]``."""

    @property
    def arrays(self) -> Sequence[npt.NDArray[Any]]: ...


class Comparable(Model, Protocol):
    """A model whose cache can be read."""

    @property
    def cache(self) -> ReadableCache: ...


@dataclass(frozen=True)
class SafeWidths:
    """``widths``, increasing: the row counts that may be run. ``exact``: whether they agree bit for bit.

    ``tree`` says whether a path inside a tree agrees with that path run as a chain, too. Where no two widths agree,
    every width stands in ``widths`` and output is exact up to near ties.
    """

    widths: tuple[int, ...]
    exact: bool
    tree: bool

    def largest(self, max_rows: int) -> int:
        """The largest width of at most ``max_rows``; the smallest of all where there is none."""
        return self.widths[max(bisect_right(self.widths, max_rows) - 1, 0)]

    def pad(self, rows: int) -> int:
        """The smallest width of at least ``rows``; more than any model has where there is none."""
        place = bisect_left(self.widths, rows)
        return self.widths[place] if place < len(self.widths) else _NO_WIDTH


def are_widths(data: Any, max_rows: int) -> bool:
    """Whether ``data``, read from a record, has the fields of ``SafeWidths`` and can be those of ``max_rows``."""
    if not isinstance(data, dict) or set(data) != {"widths", "exact", "tree"}:
        return False
    widths = data["widths"]
    if not isinstance(widths, list) or not all(type(width) is int and 0 < width <= max_rows for width in widths):
        return False
    increase = all(low < high for low, high in pairwise(widths))
    return bool(widths) and increase and isinstance(data["exact"], bool) and isinstance(data["tree"], bool)


def any_width(max_rows: int) -> SafeWidths:
    """All widths up to ``max_rows``, nothing known of them: for drafters, whose last bits do not matter."""
    return SafeWidths(tuple(range(1, max_rows + 1)), exact=False, tree=False)


def even_widths(max_rows: int) -> SafeWidths:
    """The even widths up to ``max_rows``, taken to agree without a test."""
    return SafeWidths(tuple(range(2, max_rows + 1, 2)), exact=True, tree=False)


def find_safe_widths(model: Comparable, seed: int = 0) -> SafeWidths:
    """Runs the same tokens at every width up to ``model.max_rows`` and compares logits and cache rows bit for bit.

    ``model`` must not pad (``any_width``). Its cache is used and left empty; one of few rows bounds the widths that
    are tried. The largest set of agreeing widths is taken, the one with the smallest width if there are several.
    """
    # The cache has room for one forward more than the graph has positions, where the context is all of them.
    positions = max(model.cache.capacity - model.max_rows, 2)
    rows = min(model.max_rows, positions // 2)
    prefix = min(_PREFIX_ROWS, positions - 2 * rows)
    # Not NumPy's generators, whose modules would stay in memory for this.
    tokens = Random(seed).choices(range(model.vocab_size), k=prefix + 2 * rows)
    model.cache.rollback(0)
    model.prefill(tokens[:prefix])
    agreeing: dict[str, list[int]] = {}
    for width in range(1, rows + 1):
        agreeing.setdefault(_fingerprint(model, tokens[prefix:], prefix, width), []).append(width)
    best = max(agreeing.values(), key=lambda widths: (len(widths), -widths[0]))
    exact = len(best) > 1 and best[-1] >= rows - 1
    if rows <= _PLAIN_ROWS:
        # Without drafts every step runs the same number of rows: the padded one, as plain steps beside drafts do.
        best, exact = next(widths for widths in agreeing.values() if rows in widths), True
    wide = next((width for width in best if width >= _TREE_ROWS), None)
    tree = exact and model.takes_trees and wide is not None and _tree_agrees(model, tokens[prefix:], prefix, wide)
    model.cache.rollback(0)
    return SafeWidths(tuple(best), True, tree) if exact else any_width(model.max_rows)


def _fingerprint(model: Comparable, tokens: Sequence[int], prefix: int, width: int) -> str:
    """A hash over logits and cache rows of half of ``tokens``, ``width`` rows a forward behind the prefix."""
    model.cache.rollback(prefix)
    digest, rows = hashlib.sha256(), len(tokens) // 2
    for start in range(0, rows, width):
        logits = model.forward(tokens[start : start + width]).logits
        digest.update(np.ascontiguousarray(logits[: rows - start]).data)
    for array in model.cache.arrays:
        digest.update(np.ascontiguousarray(array[:, :, prefix : prefix + rows]).data)
    return digest.hexdigest()


def _tree_agrees(model: Comparable, tokens: Sequence[int], prefix: int, width: int) -> bool:
    """Whether a path whose rows do not follow one another agrees with the same path run as a chain.

    The tree has a wrong sibling behind the anchor; the path goes on from the second child.
    """
    anchor, sibling, *path = tokens[:width]
    model.cache.rollback(prefix)
    chain = model.forward([anchor, *path, sibling]).logits[: width - 1].copy()
    model.cache.rollback(prefix)
    tree = model.forward([anchor, sibling, *path], [-1, 0, 0, *range(2, width - 1)]).logits
    return bool(np.array_equal(chain, tree[[0, *range(2, width)]]))
