"""The tokens that a draft model can propose to its target, and what it draws them from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.arrays import FloatArray, TokenArray
from runtime.decoding.constrained import allowed_distribution, allowed_greedy_token
from runtime.decoding.context import Context
from runtime.decoding.distribution import Distribution
from runtime.decoding.exact_math import Ids
from runtime.decoding.sampling import SamplingParams


@dataclass(frozen=True)
class SharedVocabulary:
    """The first ``size`` tokens are those that draft model and target both have.

    The draft model has logits of all of them, or, if its head was cut, of the ascending ``tokens`` alone; the others
    have no chance in its distributions, so that every acceptance rule stays exact.
    """

    size: int
    tokens: Ids | None = None

    @classmethod
    def of(cls, target: int, draft: int, tokens: Ids | None = None) -> SharedVocabulary:
        """What models of ``target`` and ``draft`` tokens share; the logits of the latter are of ``tokens``."""
        size = min(target, draft)
        return cls(size, None if tokens is None else tokens[: int(tokens.searchsorted(size))])

    def logits(self, rows: FloatArray) -> FloatArray:
        """The logits of its tokens among those of a draft model, ``[rows, columns]``."""
        shared: FloatArray = rows[:, : self.size if self.tokens is None else len(self.tokens)]
        return shared

    def greedy_tokens(self, rows: FloatArray) -> Ids:
        """The most probable token by each of ``rows`` of logits, float32 ``[rows, columns]``, if any may follow."""
        best: Ids = rows.argmax(-1)
        return best if self.tokens is None else self.tokens[best]

    def greedy_token(self, logits: FloatArray, context: Context, path: Sequence[int]) -> int:
        """The most probable token after ``path`` that is allowed there, by ``logits``, float32 ``[columns]``."""
        return allowed_greedy_token(logits, context, path, with_drafted(context, path), self.tokens)

    def distribution(
        self,
        logits: FloatArray,
        context: Context,
        path: Sequence[int],
        out: FloatArray,
        params: SamplingParams | None = None,
    ) -> Distribution:
        """What the token after ``path`` is drawn from; ``out`` is float32 ``[size]``. See ``allowed_distribution``."""
        return allowed_distribution(logits, context, path, with_drafted(context, path), out, params, self.tokens)


def with_drafted(context: Context, tokens: Sequence[int]) -> Sequence[int] | TokenArray:
    """Committed and drafted tokens, which the repetition penalty reads; empty if there is no penalty."""
    if context.sampling.repetition_penalty == 1.0:
        return ()
    return np.concatenate([context.tokens, np.array(tokens, np.int32)])
