"""A draft model: a smaller model with the target's vocabulary, which drafts a chain or a tree.

Greedy drafts take the most probable token. Under sampling, a chain is drawn with the same random numbers that
sample-and-match will use for the same positions. A token is accepted where both distributions map the number to it, so
acceptance can be far above the probability of the drafted token; any draft leaves that rule exact. Rules that need the
draft's distribution get drafts drawn with random numbers of the drafter's own.

A tree of the most probable branches grows depth by depth, with one forward for each depth. A node's score is the
product of the chances along its path, so it never rises with depth. A node that is not among the best ``limit.nodes``
at one depth therefore never returns, and the result is the best tree of that size, as in EAGLE-2 (arXiv 2406.16858) but
without a fixed beam.

A draft ends early when a further token is too unlikely to be accepted (``confidence.py``). Of a text longer than its
cache, the drafter reads the latest part (``window.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from runtime.arrays import Arena, FloatArray, at_least
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DraftLimit, DrawKind
from runtime.decoding.exact_math import Ids
from runtime.decoding.protocols import Model
from runtime.decoding.sampling import RandomStream, draw, passing_row, uniform
from runtime.drafters.chain import Following, drawn_chain, one_hot_chain
from runtime.drafters.confidence import confidence_sampling, is_worth_extending, uncalibrated
from runtime.drafters.draft_tree import ROOT, GrowingTree
from runtime.drafters.review import OWN_ROWS, is_reviewable, right_guesses
from runtime.drafters.vocabulary import SharedVocabulary
from runtime.drafters.window import missing_tokens, window_size
from runtime.errors import DraftError, LogitsError

# A node whose probability or score is below this is not worth a row of the target. A heuristic.
_MIN_SCORE = 0.01


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
        limit = limit.within(self._fitting_nodes(limit.nodes), limit.depth)
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
                draft = self._draw_tree(context, limit, logits)
        elif limit.shape == "chain":
            draft = one_hot_chain(context, limit, self._following(logits), vocabulary, self.calibration, self.name)
        else:
            draft = self._best_tree(context, limit, logits)
        return replace(draft, rows_read=rows_read, reviewed=reviewed)

    def _fitting_nodes(self, wanted: int) -> int:
        """The number of nodes, at most ``wanted``, that one forward can run with its padding."""
        nodes = min(wanted, self._model.max_rows)
        while nodes > 0 and self._model.padded(nodes) > self._model.max_rows:
            nodes -= 1
        return nodes

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

    def _best_tree(self, context: Context, limit: DraftLimit, logits: FloatArray) -> Draft:
        """The most probable ``limit.nodes`` nodes."""
        params, rows = confidence_sampling(context.sampling), logits[None]
        tree = GrowingTree(self._model)
        best: list[int] = []
        level = [ROOT]
        for depth in range(limit.depth):
            for node, after in zip(level, rows, strict=True):
                score = tree.nodes[node].score if node != ROOT else 1.0
                floor = max(_MIN_SCORE, limit.floor, tree.nodes[best[-1]].score if len(best) == limit.nodes else 0.0)
                row = passing_row(self._vocabulary.size)
                probs = self._vocabulary.distribution(after, context, tree.path(node), row, params).dense(row)
                for token in _likeliest(probs, _MIN_SCORE, limit.nodes):
                    share = float(probs[token])
                    if score * self.calibration(share) >= floor:
                        tree.add(token, node, score * self.calibration(share), share)
            best = sorted(range(len(tree.nodes)), key=lambda node: -tree.nodes[node].score)[: limit.nodes]
            level = sorted(node for node in best if tree.nodes[node].depth == depth)
            if not level or depth == limit.depth - 1:
                break
            rows = self._vocabulary.logits(tree.feed(level))
        return tree.draft(best, self.name, expected=sum(tree.nodes[node].score for node in best))

    def _draw_tree(self, context: Context, limit: DraftLimit, logits: FloatArray) -> Draft:
        """``branches`` drawn chains, without replacement where they part. See ``drawn_chain`` for the numbers."""
        branches = min(self._branches, limit.nodes)
        self._arena.reset()
        tree, rows = GrowingTree(self._model), logits[None]
        probs: dict[int, FloatArray] = {}
        level = [ROOT]
        for depth in range(min(limit.depth, limit.nodes // branches)):
            if depth:
                level = [node for node in level if is_worth_extending(tree.nodes[node].score, depth, limit.floor)]
                if not level:
                    break
                rows = self._vocabulary.logits(tree.feed(level))
            parents, level = level, []
            for node, logits in zip(parents, rows, strict=True):
                row = self._arena.take(self._vocabulary.size)
                probs[node] = self._vocabulary.distribution(logits, context, tree.path(node), row).dense(row)
                level += self._draw_children(context, tree, node, probs[node], 1 if depth else branches)
        return tree.draft(range(len(tree.nodes)), self.name, DrawKind.WITHOUT_REPLACEMENT, probs)

    def _draw_children(
        self, context: Context, tree: GrowingTree, node: int, probs: FloatArray, count: int
    ) -> list[int]:
        """Draws ``count`` different children of ``node``; fewer if the distribution has fewer tokens."""
        left, children = probs, []
        if count > 1:
            left = passing_row(len(probs))
            left[:] = probs
        score = tree.nodes[node].score if node != ROOT else 1.0
        for _ in range(count):
            number = uniform(context.sampling.seed, context.position, RandomStream.DRAFTER, len(tree.nodes))
            token = draw(left, number)
            share = float(probs[token])
            children.append(tree.add(token, node, score * self.calibration(share), share))
            if count > 1:
                left[token] = 0
                if not left.any():
                    break
        return children


def _likeliest(probs: FloatArray, floor: float, most: int) -> list[int]:
    """At most ``most`` tokens of probability ``floor`` and above, the most probable first."""
    found = np.flatnonzero(at_least(probs, floor))
    return [int(token) for token in found[np.argsort(-probs[found], kind="stable")][:most]]
