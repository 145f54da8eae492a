"""Which row counts of a forward agree bit for bit, found by trying them on this device with this model.

A kernel may take another path for one row than for four, and then the last bits of the logits depend on how many rows
were verified together; quantized activations turn a last bit into a visible difference, which can flip an argmax. So
the decoding loop runs every step, plain ones included, at widths that agree with one another; other row counts are
padded to the next one that does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from runtime.model import OrtModel

# Long enough that keys span several vector registers and more than one block of a blocked softmax.
_PREFIX_ROWS = 40
_NO_WIDTH = 1 << 31


@dataclass(frozen=True)
class SafeWidths:
    """``widths``, increasing: the row counts that may be run. ``exact``: whether they agree bit for bit.

    ``tree`` says whether a path inside a tree agrees with that path run as a chain, too. Where no two widths agree,
    every width stands in ``widths`` and output is exact up to near ties.
    """

    widths: tuple[int, ...]
    exact: bool
    tree: bool

    def pad(self, rows: int) -> int:
        """The smallest width of at least ``rows``; more than any model has where there is none."""
        return next((width for width in self.widths if width >= rows), _NO_WIDTH)


def any_width(max_rows: int) -> SafeWidths:
    """All widths up to ``max_rows``, nothing known of them: for drafters, whose last bits do not matter."""
    return SafeWidths(tuple(range(1, max_rows + 1)), exact=False, tree=False)


def even_widths(max_rows: int) -> SafeWidths:
    """The even widths up to ``max_rows``, taken to agree without a test."""
    return SafeWidths(tuple(range(2, max_rows + 1, 2)), exact=True, tree=False)


def find_safe_widths(model: OrtModel, seed: int = 0) -> SafeWidths:
    """Runs the same tokens at every width up to ``model.max_rows`` and compares logits and cache rows bit for bit.

    ``model`` must not pad (``any_width``). Its cache is used and left empty. The largest set of agreeing widths is
    taken, the one with the smallest width if there are several.
    """
    rows = model.max_rows
    prefix = min(_PREFIX_ROWS, model.cache.capacity - 2 * rows)
    tokens = np.random.default_rng(seed).integers(0, model.vocab_size, prefix + 2 * rows).tolist()
    agreeing: dict[str, list[int]] = {}
    for width in range(1, rows + 1):
        agreeing.setdefault(_fingerprint(model, tokens, prefix, width), []).append(width)
    best = max(agreeing.values(), key=lambda widths: (len(widths), -widths[0]))
    if len(best) < 2 or best[-1] < rows - 1:
        model.cache.rollback(0)
        return any_width(rows)
    tree = model.takes_trees and _tree_agrees(model, tokens, prefix, SafeWidths(tuple(best), True, False))
    model.cache.rollback(0)
    return SafeWidths(tuple(best), exact=True, tree=tree)


def _restart(model: OrtModel, tokens: Sequence[int], prefix: int) -> None:
    """The cache holding ``tokens[:prefix]``, always computed in the same way."""
    model.cache.rollback(0)
    model.prefill(tokens[:prefix])


def _fingerprint(model: OrtModel, tokens: Sequence[int], prefix: int, width: int) -> str:
    """A hash over the logits and cache rows of ``max_rows`` tokens behind the prefix, ``width`` rows a forward."""
    _restart(model, tokens, prefix)
    digest, rows = hashlib.sha256(), model.max_rows
    for start in range(0, rows, width):
        logits = model.forward(tokens[prefix + start : prefix + start + width]).logits
        digest.update(np.ascontiguousarray(logits[: rows - start]).tobytes())
    for array in model.cache.arrays:
        digest.update(np.ascontiguousarray(array[:, :, prefix : prefix + rows]).tobytes())
    return digest.hexdigest()


def _tree_agrees(model: OrtModel, tokens: Sequence[int], prefix: int, widths: SafeWidths) -> bool:
    """Whether the second branch of a tree, whose rows do not follow one another, equals the same path as a chain."""
    anchor, first, second, third = tokens[prefix : prefix + 4]
    width = widths.pad(4)
    _restart(model, tokens, prefix)
    chain = model.forward([anchor, second, third, *tokens[: width - 3]]).logits[:3].copy()
    model.cache.rollback(prefix)
    tree = model.forward([anchor, first, second, third, *tokens[: width - 4]], [-1, 0, 0, 2, *range(3, width - 1)])
    return bool(np.array_equal(chain, tree.logits[[0, 2, 3]]))
