"""A stack of heads that read one hidden row of the target and no drafted token: one forward drafts all (Medusa).

Head i guesses the token i + 1 places behind the last committed one, from the hidden row of the token before that. It
keeps nothing between two drafts, so turns in which others draft cost it nothing. As the heads do not see what is
drafted before them, a draft is computed as a whole and then cut where a further token is too unlikely, and under
sampling every token is drawn from a distribution of its own. Any draft is exact.

Stacks whose heads read drafted tokens (Hydra) draft token by token, as other prediction heads do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from runtime.arrays import Arena, FloatArray
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DraftLimit
from runtime.decoding.exact_math import Ids
from runtime.decoding.protocols import HeadModel, HiddenInput, fitting_rows
from runtime.drafters.chain import drawn_chain, one_hot_chain
from runtime.drafters.confidence import uncalibrated
from runtime.drafters.draft_tree import ROOT, GrowingTree, best_tree, drawn_tree
from runtime.drafters.prediction_head import TappedCache
from runtime.drafters.vocabulary import SharedVocabulary
from runtime.errors import DraftError, LogitsError


class OpenStack:
    """The stack of ``heads`` heads in ``model``, which read ``columns`` of the hidden rows in ``target``."""

    def __init__(self, model: HeadModel, target: TappedCache, columns: npt.NDArray[np.int64], heads: int) -> None:
        self.model, self._target, self._columns, self._heads = model, target, columns, heads

    def forward(self, context: Context, wanted: int) -> FloatArray | None:
        """The logits of the next tokens, float32 ``[rows, columns]``, of at most ``wanted`` heads.

        None where the target's hidden row is not known, or there is no room for a row.
        """
        hidden, last = self._target.hidden, len(context) - 2
        rows = fitting_rows(self.model, min(wanted, self._heads))
        if rows <= 0 or hidden is None or not hidden.first <= last < hidden.end:
            return None
        row = hidden.rows(last, last + 1)[:, self._columns]
        numbered = np.concatenate([np.repeat(row, rows, 0), np.arange(rows, dtype=np.float32)[:, None]], 1)
        try:
            return self.model.forward([0] * rows, None, 0, HiddenInput(numbered, own=True)).logits
        finally:
            self.model.cache.rollback(0)


class StackTree(GrowingTree):
    """A tree of a stack whose heads have the logits ``rows``: those behind a node depend on its depth alone."""

    def __init__(self, model: HeadModel, rows: FloatArray) -> None:
        super().__init__(model, rows[:1])
        self._rows = rows

    def feed(self, level: Sequence[int]) -> FloatArray:
        """See ``GrowingTree``; nothing is run."""
        depth = 0 if level == [ROOT] else self.nodes[level[0]].depth + 1
        return np.repeat(self._rows[depth : depth + 1], len(level), 0)


class HeadStackDrafter:
    """Drafts with ``stack`` for a target with ``vocab_size`` logits.

    Drafts, ``drawn``, ``branches``, ``tokens`` and ``calibration`` are those of ``DraftModelDrafter``; no draft is
    deeper than there are heads. A tree has the likeliest products of their guesses (Medusa's Cartesian product).
    """

    def __init__(
        self,
        stack: OpenStack,
        vocab_size: int,
        name: str = "stack",
        drawn: bool = False,
        branches: int = 2,
        tokens: Ids | None = None,
    ) -> None:
        self.name = name
        self._stack, self._drawn, self._branches = stack, drawn, branches
        self._vocabulary = SharedVocabulary.of(vocab_size, stack.model.vocab_size, tokens)
        self.calibration: Callable[[float], float] = uncalibrated
        self._arena = Arena()

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        """See ``Drafter``. Empty where the target's hidden row is not known.

        DraftError if the model's logits are not finite.
        """
        if limit.depth <= 0 or (rows := self._stack.forward(context, limit.depth)) is None:
            return Draft()
        try:
            return self._draft(context, limit.within(limit.nodes, len(rows)), rows)
        except LogitsError as error:
            raise DraftError(self.name, error) from None

    def _draft(self, context: Context, limit: DraftLimit, rows: FloatArray) -> Draft:
        vocabulary, drawn = self._vocabulary, context.sampling.temperature > 0 and self._drawn
        if limit.shape == "chain":
            shared = vocabulary.logits(rows)
            following = lambda tokens: shared[len(tokens)]  # noqa: E731
            if drawn:
                return drawn_chain(context, limit, following, vocabulary, self.calibration, self.name, self._arena)
            return one_hot_chain(context, limit, following, vocabulary, self.calibration, self.name)
        tree = StackTree(self._stack.model, rows)
        if drawn:
            return drawn_tree(
                context, limit, tree, vocabulary, self.calibration, self.name, self._arena, self._branches
            )
        return best_tree(context, limit, tree, vocabulary, self.calibration, self.name)
