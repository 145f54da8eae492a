"""The target's rows by node, for acceptance rules; a row is processed only when it is visited."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from runtime.arrays import FloatArray, TokenArray
from runtime.decoding.constrained import allowed_distribution, allowed_greedy_token
from runtime.decoding.context import Context
from runtime.decoding.distribution import Distribution
from runtime.decoding.draft import Draft, row_of
from runtime.decoding.sampling import passing_row


class TargetRows:
    """The target's distributions after the nodes of ``draft``, under the context's constraint and sampling settings.

    ``logits`` is float32 ``[1 + nodes, vocab]``; row 0 follows the anchor. The settings see the committed tokens and
    the path down to the node. ``take(size)`` gives the array for a distribution; by default each is valid until the
    next one.
    """

    def __init__(
        self, draft: Draft, logits: FloatArray, context: Context, take: Callable[[int], FloatArray] = passing_row
    ) -> None:
        self._draft = draft
        self._logits = logits
        self._context = context
        self._take = take

    def probs(self, node: int) -> FloatArray:
        """The distribution of the token after ``node`` (-1: the anchor), float32 ``[vocab]``."""
        out = self._take(self._logits.shape[1])
        return self._distribution(node, out).dense(out)

    def draw(self, node: int, u: float) -> int:
        """The token after ``node`` (-1: the anchor) at ``u`` in [0, 1) of its distribution."""
        return self._distribution(node, passing_row(self._logits.shape[1])).draw(u)

    def token(self, node: int) -> int:
        """The greedy token after ``node`` (-1: the anchor)."""
        path = self._path(node)
        return allowed_greedy_token(self._logits[row_of(node)], self._context, path, self._before(path))

    def _distribution(self, node: int, out: FloatArray) -> Distribution:
        path = self._path(node)
        return allowed_distribution(self._logits[row_of(node)], self._context, path, self._before(path), out)

    def _path(self, node: int) -> list[int]:
        """The drafted tokens down to ``node``."""
        path = []
        while node >= 0:
            path.append(self._draft.tokens[node])
            node = self._draft.parents[node]
        return path[::-1]

    def _before(self, path: Sequence[int]) -> Sequence[int] | TokenArray:
        """All tokens to the end of ``path``; empty if no setting reads them."""
        if self._context.sampling.repetition_penalty == 1.0:
            return ()
        return np.concatenate([self._context.tokens, np.array(path, np.int32)])
