"""PARD: a draft model that drafts several tokens with one forward (An et al., arXiv 2504.18583).

The model was taught that a mask token stands for a token that is not known. One forward reads the committed tokens that
its cache lacks and a mask for every drafted token but the last. The row of the last committed token gives the first
token of the draft, each mask the next one. The masks leave the cache again: the accepted tokens are read as such by the
next forward.

PARD-2 (arXiv 2605.08632) reads hidden rows of the target as well: a row has those of the position before its token, and
a mask those of the last committed token's row.

A row does not see the tokens drafted before it. So the whole draft is computed before it is cut where a further token
is too unlikely, and under sampling every token is drawn from a distribution of its own. Any draft is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from export.manifest import ParallelDrafts
from runtime.arrays import Arena, FloatArray
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DraftLimit
from runtime.decoding.exact_math import Ids
from runtime.decoding.protocols import Model
from runtime.drafters.chain import drawn_chain, one_hot_chain
from runtime.drafters.confidence import uncalibrated
from runtime.drafters.prediction_head import HeadReader
from runtime.drafters.vocabulary import SharedVocabulary
from runtime.drafters.window import missing_tokens, window_size
from runtime.errors import DraftError, LogitsError


class ParallelDrafter:
    """Drafts chains with ``model``, which drafts as ``parallel`` says, for a target with ``vocab_size`` logits.

    Drafts, ``drawn``, ``tokens`` and ``calibration`` are those of ``DraftModelDrafter``, but that it drafts chains
    alone: of a tree's limit, as long as the tree is deep. ``reader`` keeps a model up to date that reads hidden rows.
    """

    def __init__(
        self,
        model: Model,
        parallel: ParallelDrafts,
        vocab_size: int,
        name: str = "parallel",
        drawn: bool = False,
        tokens: Ids | None = None,
        reader: HeadReader | None = None,
    ) -> None:
        self.name, self._reader = name, reader
        self._model, self._parallel, self._drawn = model, parallel, drawn
        self._vocab_size = vocab_size
        self._vocabulary = SharedVocabulary.of(vocab_size, model.vocab_size, tokens)
        self.calibration: Callable[[float], float] = uncalibrated
        self._arena = Arena()

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        """See ``Drafter``. Empty only if the model's cache is too small for a window of two tokens, or where the hidden
        rows that it reads are not known.

        DraftError if the model's logits are not finite.
        """
        limit = replace(limit, shape="chain").within(self._fitting_length(limit.depth), limit.depth)
        if limit.depth <= 0 or not window_size(self._model, context.capacity):
            return Draft()
        try:
            found = self._forward(context, limit.depth)
        except LogitsError as error:
            raise DraftError(self.name, error) from None
        if found is None:
            return Draft()
        rows, rows_read = found
        following = lambda tokens: rows[len(tokens)]  # noqa: E731
        if context.sampling.temperature > 0 and self._drawn:
            draft = drawn_chain(context, limit, following, self._vocabulary, self.calibration, self.name, self._arena)
        else:
            draft = one_hot_chain(context, limit, following, self._vocabulary, self.calibration, self.name)
        return replace(draft, rows_read=rows_read)

    def _fitting_length(self, wanted: int) -> int:
        """The longest draft, of at most ``wanted`` tokens, that one forward can compute with its padding."""
        length = min(wanted, self._parallel.longest, self._model.max_rows)
        while length > 0 and self._model.padded(length) > self._model.max_rows:
            length -= 1
        return length

    def _forward(self, context: Context, length: int) -> tuple[FloatArray, int] | None:
        """The logits of a draft of ``length`` tokens, float32 ``[length, columns]``, and the rows caught up with.

        Afterwards the cache has the committed tokens alone.
        """
        if self._reader is not None:
            read = self._reader.read(context.tokens, [self._parallel.mask_token] * (length - 1))
            return read and (self._vocabulary.logits(read[0].logits), read[1])
        tokens, rows_read = missing_tokens(self._model, context, self._vocab_size, length - 1)
        held = self._model.cache.length + len(tokens)
        masks = np.full(length - 1, self._parallel.mask_token, np.int32)
        logits = self._model.forward(np.concatenate([tokens, masks]), None, len(tokens) - 1).logits
        self._model.cache.rollback(held)
        return self._vocabulary.logits(logits), rows_read
