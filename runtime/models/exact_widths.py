"""Finds the numbers of rows whose forwards agree bit for bit, by trying them with this model on this device.

A kernel may compute one row differently from four. Then the last bits of the logits depend on how many rows were
verified together, and quantized activations can turn a last bit into another argmax. So the decoding loop runs every
step, plain ones included, at widths that agree with one another; other numbers of rows are padded to the next such
width.
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

from runtime.decoding.loop import fill_cache
from runtime.decoding.protocols import Cache, Model

# Long enough for keys to span several vector registers and more than one block of a blocked softmax.
_PREFIX_ROWS = 40
_NO_WIDTH = 1 << 31
# A row and its padding.
_PLAIN_ROWS = 2
# The smallest tree that can differ from a chain: the anchor, two children, and a path below the second.
_TREE_ROWS = 6


class ReadableCache(Cache, Protocol):
    """A cache whose keys and values can be compared; each of ``arrays`` is ``[1, kv_heads, rows, head_size]``."""

    @property
    def arrays(self) -> Sequence[npt.NDArray[Any]]: ...


class Comparable(Model, Protocol):
    """A model whose cache can be read."""

    @property
    def cache(self) -> ReadableCache: ...


@dataclass(frozen=True)
class SafeWidths:
    """``widths``, increasing: the numbers of rows that may be run. ``exact``: whether they agree bit for bit.

    ``tree`` says whether a path inside a tree also agrees with the same path run as a chain. If no two widths agree,
    ``widths`` has all of them, and output is exact up to near ties.
    """

    widths: tuple[int, ...]
    exact: bool
    tree: bool

    def largest(self, max_rows: int) -> int:
        """The largest width of at most ``max_rows``; if there is none, the smallest of all."""
        return self.widths[max(bisect_right(self.widths, max_rows) - 1, 0)]

    def pad(self, rows: int) -> int:
        """The smallest width of at least ``rows``; if there is none, more than any model has."""
        place = bisect_left(self.widths, rows)
        return self.widths[place] if place < len(self.widths) else _NO_WIDTH


def are_widths(data: Any, max_rows: int) -> bool:
    """Whether ``data``, read from a record, has the fields of ``SafeWidths`` and is possible for ``max_rows``."""
    if not isinstance(data, dict) or set(data) != {"widths", "exact", "tree"}:
        return False
    widths = data["widths"]
    if not isinstance(widths, list) or not all(type(width) is int and 0 < width <= max_rows for width in widths):
        return False
    increase = all(low < high for low, high in pairwise(widths))
    return bool(widths) and increase and isinstance(data["exact"], bool) and isinstance(data["tree"], bool)


def any_width(max_rows: int) -> SafeWidths:
    """All widths up to ``max_rows``, untested: for drafters, whose last bits do not matter."""
    return SafeWidths(tuple(range(1, max_rows + 1)), exact=False, tree=False)


def even_widths(max_rows: int) -> SafeWidths:
    """The even widths up to ``max_rows``, assumed to agree."""
    return SafeWidths(tuple(range(2, max_rows + 1, 2)), exact=True, tree=False)


def find_safe_widths(model: Comparable, seed: int = 0) -> SafeWidths:
    """Runs the same tokens at every width up to ``model.max_rows``; compares logits and cache rows bit for bit.

    ``model`` must not pad (``any_width``). Its cache is overwritten and left empty; a small one limits the widths that
    are tried. The result is the largest set of widths that agree, among equals the one with the smallest width.
    """
    # If the context is as long as the graph allows, the cache has room for one more forward than the graph has
    # positions.
    positions = max(model.cache.capacity - model.max_rows, 2)
    rows = min(model.max_rows, positions // 2)
    prefix = min(_PREFIX_ROWS, positions - 2 * rows)
    # Not NumPy's generators, whose modules would stay in memory.
    tokens = Random(seed).choices(range(model.vocab_size), k=prefix + 2 * rows)
    model.cache.rollback(0)
    agreeing: dict[str, list[int]] = {}
    for width in range(1, rows + 1):
        agreeing.setdefault(_fingerprint(model, tokens, prefix, width), []).append(width)
    best = max(agreeing.values(), key=lambda widths: (len(widths), -widths[0]))
    exact = len(best) > 1 and best[-1] >= rows - 1
    if rows <= _PLAIN_ROWS:
        # Without drafts every step runs the same number of rows: the padded one, as plain steps do beside drafted ones.
        best, exact = next(widths for widths in agreeing.values() if rows in widths), True
    wide = next((width for width in best if width >= _TREE_ROWS), None)
    tree = exact and model.takes_trees and wide is not None and _tree_agrees(model, tokens, prefix, wide)
    model.cache.rollback(0)
    return SafeWidths(tuple(best), True, tree) if exact else any_width(model.max_rows)


def _fingerprint(model: Comparable, tokens: Sequence[int], prefix: int, width: int) -> str:
    """A hash of logits and cache rows for half of the ``tokens`` after ``prefix``, run ``width`` rows at a time."""
    fill_cache(model, tokens[:prefix])
    digest, rows = hashlib.sha256(), (len(tokens) - prefix) // 2
    for start in range(0, rows, width):
        logits = model.forward(tokens[prefix + start : prefix + start + width]).logits
        digest.update(np.ascontiguousarray(logits[: rows - start]).data)
    for array in model.cache.arrays:
        digest.update(np.ascontiguousarray(array[:, :, prefix : prefix + rows]).data)
    return digest.hexdigest()


def _tree_agrees(model: Comparable, tokens: Sequence[int], prefix: int, width: int) -> bool:
    """Whether a path through non-adjacent rows agrees with the same path run as a chain.

    The tree has a wrong sibling after the anchor; the path continues from the second child.
    """
    anchor, sibling, *path = tokens[prefix : prefix + width]
    fill_cache(model, tokens[:prefix])
    chain = model.forward([anchor, *path, sibling]).logits[: width - 1].copy()
    fill_cache(model, tokens[:prefix])
    tree = model.forward([anchor, sibling, *path], [-1, 0, 0, *range(2, width - 1)]).logits
    return bool(np.array_equal(chain, tree[[0, *range(2, width)]]))
