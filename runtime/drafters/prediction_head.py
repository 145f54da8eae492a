"""A prediction head: a small drafter that reads the target's hidden rows beside tokens (EAGLE, multi-token prediction).

Row i of the head has the token at position i + 1 and the target's hidden rows at position i. So it begins with the
second token, and its last row, whose logits are those of the first drafted token, has the last committed one. Each
further token is drafted with the head's own hidden row of the one before: in a tree, of its parent. Such rows leave its
cache again: what is accepted of them is read anew, with rows of the target.

Hidden rows are there for the latest tokens alone (``models.hidden_rows``). The head reads them before they are
overwritten, also while others draft, so that its cache has the whole text. Where it was not there in time, it begins
with the oldest row that is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from runtime.arrays import Arena, FloatArray, TokenArray
from runtime.decoding.context import Context, shared_prefix
from runtime.decoding.draft import Draft, DraftLimit
from runtime.decoding.exact_math import Ids
from runtime.decoding.protocols import Cache, HeadModel, HiddenInput, ModelOutput
from runtime.drafters.chain import Following, drawn_chain, one_hot_chain
from runtime.drafters.confidence import uncalibrated
from runtime.drafters.draft_tree import ROOT, GrowingTree, best_tree, drawn_tree, fitting_nodes
from runtime.drafters.vocabulary import SharedVocabulary
from runtime.errors import DraftError, LogitsError
from runtime.models.hidden_rows import HiddenRows


class TappedCache(Cache, Protocol):
    """The target's cache; ``hidden`` None: no hidden rows are kept."""

    hidden: HiddenRows | None


class HeadReader:
    """Keeps the cache of ``model`` with the text in ``target``; of its hidden rows the head reads ``columns``.

    ``first`` is the token with which a text begins: the second one, or the first one (0), beside a row of zeros.
    """

    def __init__(self, model: HeadModel, target: TappedCache, columns: npt.NDArray[np.int64], first: int = 1) -> None:
        self.model = model
        self._target, self._columns, self._first = target, columns, first
        # The position of the hidden row that the first row of the cache has; -1 is the row of zeros.
        self._begin = first - 1
        self.follow()

    def follow(self) -> None:
        """Has the target tell before rows are lost; to be repeated when it keeps rows anew."""
        if self._target.hidden is not None:
            self._target.hidden.readers.add(self)

    def read(self, tokens: TokenArray, masks: Sequence[int] = ()) -> tuple[ModelOutput, int] | None:
        """Reads what the cache lacks of ``tokens``; the output for the last one, and how many rows came before it.

        ``masks`` are read behind it, each beside its hidden row, and have outputs as well; they leave the cache. None
        if there is no hidden row to begin with: none is kept, or the text was put back from elsewhere.
        """
        start = self._align(tokens)
        if start is None:
            return None
        last, rows_read = len(tokens) - 2, len(tokens) - 2 - start
        if self.model.padded(rows_read + 1 + len(masks)) > self.model.max_rows:
            self._prefill(tokens, start, last)
            start = last
        rows = self._rows(start, last + 1)
        rows = np.concatenate([rows, *[rows[-1:]] * len(masks)])
        fed = np.concatenate([tokens[start + 1 :], np.array(masks, np.int32)])
        output = self.model.forward(fed, None, last - start, HiddenInput(rows))
        self.model.cache.rollback(self.model.cache.length - len(masks))
        return output, rows_read

    def read_before(self, lost: int) -> None:
        """See ``HiddenReader``: reads the whole text, if rows that it lacks would be lost."""
        tokens = self._target.tokens
        start = self._align(tokens)
        if start is not None and start < lost:
            self._prefill(tokens, start, len(tokens) - 1)

    def behind(self, tokens: TokenArray) -> int:
        """Rows that the cache lacks of ``tokens``."""
        return len(tokens) - self._begin - shared_prefix(self.model.cache.tokens, tokens[self._begin + 1 :])

    def _align(self, tokens: TokenArray) -> int | None:
        """Takes back all rows but those of ``tokens``; the position to read from. At least one row is left to read.

        If rows between are lost, or the cache is full, it begins anew.
        """
        hidden, cache, last = self._target.hidden, self.model.cache, len(tokens) - 2
        if hidden is None or not hidden.first <= last < hidden.end:
            return None
        room = cache.capacity - self.model.max_rows
        kept = shared_prefix(cache.tokens, tokens[self._begin + 1 :])
        start = min(self._begin + kept, last)
        if kept == 0 or start < hidden.first or last + 1 - self._begin > room:
            oldest = hidden.first if hidden.first else self._first - 1
            whole = last + 1 - oldest <= room
            start = self._begin = oldest if whole else max(oldest, last + 1 - max(room // 2, 1))
        cache.rollback(start - self._begin)
        return start

    def _prefill(self, tokens: TokenArray, start: int, stop: int) -> None:
        self.model.prefill(tokens[start + 1 : stop + 1], HiddenInput(self._rows(start, stop)))

    def _rows(self, start: int, stop: int) -> FloatArray:
        assert self._target.hidden is not None
        rows = self._target.hidden.rows(max(start, 0), stop)[:, self._columns]
        return rows if start >= 0 else np.concatenate([np.zeros_like(rows, shape=(-start, rows.shape[1])), rows])


class HeadTree(GrowingTree):
    """A tree of the head ``model``, whose output behind the committed tokens is ``latest``."""

    def __init__(self, model: HeadModel, latest: ModelOutput) -> None:
        super().__init__(model, latest.logits)
        assert latest.hidden is not None
        self._head, self._hidden = model, {ROOT: latest.hidden[-1].copy()}

    def _run(self, nodes: Sequence[int], parents: Sequence[int] | None, wanted: int) -> ModelOutput:
        """Runs every row with the hidden row of its parent, and keeps those of the last ``wanted``."""
        tokens = [self.nodes[node].token for node in nodes]
        given = np.stack([self._hidden[self.nodes[node].parent] for node in nodes])
        output = self._head.forward(tokens, parents, len(nodes) - wanted, HiddenInput(given, own=True))
        assert output.hidden is not None
        self._hidden.update(zip(nodes[-wanted:], output.hidden.copy(), strict=True))
        return output


class PredictionHeadDrafter:
    """Drafts with the head that ``reader`` keeps up to date, for a target with ``vocab_size`` logits.

    ``tokens``, ascending, are those that the head's logits are of; None: all. Drafts, ``drawn``, ``branches`` and
    ``calibration`` are those of ``DraftModelDrafter``, but no draft is deeper than ``longest``.
    """

    def __init__(
        self,
        reader: HeadReader,
        vocab_size: int,
        name: str = "own",
        drawn: bool = False,
        branches: int = 2,
        tokens: Ids | None = None,
        longest: float = math.inf,
    ) -> None:
        self.name, self._longest = name, longest
        self._reader, self._model, self._drawn, self._branches = reader, reader.model, drawn, branches
        self._vocabulary = SharedVocabulary.of(vocab_size, reader.model.vocab_size, tokens)
        self.calibration: Callable[[float], float] = uncalibrated
        self._arena = Arena()

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        """See ``Drafter``. Empty where the target's hidden rows are not known.

        DraftError if the model's logits are not finite.
        """
        limit = limit.within(fitting_nodes(self._model, limit.nodes), int(min(limit.depth, self._longest)))
        if limit.depth <= 0 or (found := self._reader.read(context.tokens)) is None:
            return Draft()
        held = self._model.cache.length
        try:
            draft = self._draft(context, limit, found[0])
        except LogitsError as error:
            raise DraftError(self.name, error) from None
        finally:
            self._model.cache.rollback(held)
        return replace(draft, rows_read=found[1])

    def _draft(self, context: Context, limit: DraftLimit, first: ModelOutput) -> Draft:
        vocabulary, drawn = self._vocabulary, context.sampling.temperature > 0 and self._drawn
        if limit.shape == "chain":
            following = self._following(first)
            if drawn:
                return drawn_chain(context, limit, following, vocabulary, self.calibration, self.name, self._arena)
            return one_hot_chain(context, limit, following, vocabulary, self.calibration, self.name)
        tree = HeadTree(self._model, first)
        if drawn:
            return drawn_tree(
                context, limit, tree, vocabulary, self.calibration, self.name, self._arena, self._branches
            )
        return best_tree(context, limit, tree, vocabulary, self.calibration, self.name)

    def _following(self, latest: ModelOutput) -> Following:
        """The logits after the drafted tokens of a chain; ``latest`` is the output behind none."""

        def following(tokens: Sequence[int]) -> FloatArray:
            nonlocal latest
            if tokens:
                assert latest.hidden is not None
                latest = self._model.forward(tokens[-1:], None, 0, HiddenInput(latest.hidden, own=True))
            shared: FloatArray = self._vocabulary.logits(latest.logits)[0]
            return shared

        return following
