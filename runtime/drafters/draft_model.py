"""A draft model: a smaller model with the target's vocabulary, which drafts a chain or a tree.

Greedy drafts take the most probable token. Under sampling, a chain is drawn with the same random numbers that
sample-and-match will use for the same positions. A token is accepted where both distributions map the number to it, so
acceptance can be far above the probability of the drafted token; any draft leaves that rule exact. Rules that need the
draft's distribution get drafts drawn with random numbers of the drafter's own.

Trees of its most probable branches, or of drawn ones, grow depth by depth (``draft_tree.py``).

A draft ends early when a further token is too unlikely to be accepted (``confidence.py``). Of a text longer than its
cache, the drafter reads the latest part (``window.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from runtime.arrays import Arena, FloatArray
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DraftLimit
from runtime.decoding.exact_math import Ids
from runtime.decoding.protocols import Model
from runtime.drafters.chain import Following, drawn_chain, one_hot_chain
from runtime.drafters.confidence import uncalibrated
from runtime.drafters.draft_tree import GrowingTree, best_tree, drawn_tree, fitting_nodes
from runtime.drafters.review import OWN_ROWS, is_reviewable, right_guesses
from runtime.drafters.vocabulary import SharedVocabulary
from runtime.drafters.window import missing_tokens, window_size
from runtime.errors import DraftError, LogitsError


class DraftModelDrafter:
    """Drafts with ``model`` for a target with ``vocab_size`` logits; ids that the target lacks are never proposed, nor
    what a constraint does not allow. ``tokens``, ascending, are those that the model's logits are of; None: all.

    Trees need a model that takes them. Drafts are ONE_HOT, for greedy decoding and sample-and-match. With ``drawn``
    they carry their distributions, for the rules that use them: INDEPENDENT chains, and WITHOUT_REPLACEMENT trees of
    ``branches`` drawn chains. At temperature 0 every draft is ONE_HOT.

    ``Draft.chances`` are the drafter's own probabilities of its tokens; at temperature 0, those of the plain softmax.
    Greedy chains have them only with a ``limit.floor``, because they cost a pass over the vocabulary. ``calibration``,
    a rising function, turns them into the chances of acceptance that ``limit.floor`` is compared with.
    """

    def __init__(
        self,
        model: Model,
        vocab_size: int,
        name: str = "draft_model",
        drawn: bool = False,
        branches: int = 2,
        tokens: Ids | None = None,
    ) -> None:
        self.name = name
        self._model, self._drawn, self._branches = model, drawn, branches
        self._vocab_size = vocab_size
        self._vocabulary = SharedVocabulary.of(vocab_size, model.vocab_size, tokens)
        self.calibration: Callable[[float], float] = uncalibrated
        self._arena = Arena()

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        """See ``Drafter``. Empty only if the model's cache is too small for a window of two tokens.

        DraftError if the model's logits are not finite.
        """
        limit = limit.within(fitting_nodes(self._model, limit.nodes), limit.depth)
        if limit.depth <= 0 or not window_size(self._model, context.capacity):
            return Draft()
        assert limit.shape == "chain" or self._model.takes_trees
        try:
            return self._propose(context, limit)
        except LogitsError as error:
            raise DraftError(self.name, error) from None

    def _propose(self, context: Context, limit: DraftLimit) -> Draft:
        logits, rows_read, reviewed = self._catch_up(context)
        vocabulary = self._vocabulary
        if context.sampling.temperature > 0 and self._drawn:
            if limit.shape == "chain":
                following = self._following(logits)
                draft = drawn_chain(context, limit, following, vocabulary, self.calibration, self.name, self._arena)
            else:
                tree = GrowingTree(self._model, logits[None])
                draft = drawn_tree(
                    context, limit, tree, vocabulary, self.calibration, self.name, self._arena, self._branches
                )
        elif limit.shape == "chain":
            draft = one_hot_chain(context, limit, self._following(logits), vocabulary, self.calibration, self.name)
        else:
            tree = GrowingTree(self._model, logits[None])
            draft = best_tree(context, limit, tree, vocabulary, self.calibration, self.name)
        return replace(draft, rows_read=rows_read, reviewed=reviewed)

    def _catch_up(self, context: Context) -> tuple[FloatArray, int, tuple[bool, ...]]:
        """Reads the committed tokens of the window that the cache lacks.

        Returns the logits after the last one, float32 ``[columns]``, the number of rows read before it, and which of
        the tokens of these rows it would have drafted, as far as that is known.
        """
        tokens, rows_read = missing_tokens(self._model, context, self._vocab_size, left=self._model.logits_rows)
        first = len(tokens) - 1
        if rows_read >= OWN_ROWS and is_reviewable(context):
            first = max(len(tokens) - self._model.logits_rows, 0)
        logits = self._vocabulary.logits(self._model.forward(tokens, None, first).logits)
        return logits[-1], rows_read, right_guesses(tokens[first + 1 :], logits[:-1], self._vocabulary)

    def _following(self, logits: FloatArray) -> Following:
        """The logits after the drafted tokens of a chain; ``logits`` are those after none."""
        shared = self._vocabulary.logits
        return lambda tokens: shared(self._model.forward(tokens[-1:]).logits)[0] if tokens else logits
