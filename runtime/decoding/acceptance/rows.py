"""The target's rows by node, for acceptance rules; a row is processed only when it is visited."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from runtime.arrays import FloatArray, TokenArray
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, row_of
from runtime.decoding.sampling import greedy_token, passing_row, probabilities


class TargetRows:
    """The target's distributions after the nodes of ``draft``, under the context's sampling settings.

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
        logits = self._logits[row_of(node)]
        return probabilities(logits, self._before(node), self._context.sampling, self._take(len(logits)))

    def token(self, node: int) -> int:
        """The greedy token after ``node`` (-1: the anchor)."""
        return greedy_token(self._logits[row_of(node)], self._before(node), self._context.sampling)

    def _before(self, node: int) -> Sequence[int] | TokenArray:
        """The tokens down to ``node``; empty if no setting reads them."""
        if self._context.sampling.repetition_penalty == 1.0:
            return ()
        path = []
        while node >= 0:
            path.append(self._draft.tokens[node])
            node = self._draft.parents[node]
        return np.concatenate([self._context.tokens, np.array(path[::-1], np.int32)])
