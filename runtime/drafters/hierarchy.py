"""Hierarchical drafting: a draft model, the intermediate, that decodes speculatively itself.

The intermediate decodes ahead of the committed tokens with the same loop as the target. The drafter below it proposes a
chain or a tree, and one forward of the intermediate verifies it. The accepted tokens and the one that the verification
adds are appended, until the draft is long enough; the target gets them as a chain. This is the hierarchy of SpecMQuant
(arXiv 2505.22179), for sampling as well as greedy decoding. The drafter below may itself be a hierarchy, so there can
be any number of levels.

The draft has the intermediate's own distribution, whatever drafts below. It is greedy; or drawn with the same random
numbers that the target will use for the same positions; or, for rules that use distributions, drawn from the
intermediate's distributions, which the draft carries. Where the draft ends depends only on lengths, and no token is
discarded: discarding tokens because of their values would change the distribution of those that stay.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from runtime.arrays import Arena, FloatArray, TokenArray
from runtime.decoding.acceptance.greedy import GreedyVerifier
from runtime.decoding.acceptance.recorded_block import RecordingVerifier
from runtime.decoding.acceptance.sample_and_match import MatchVerifier
from runtime.decoding.constrained import allowed_part
from runtime.decoding.context import Context, shared_prefix
from runtime.decoding.draft import Draft, DraftLimit, DrawKind, Pick, Step, Verdict, chain_limit, make_chain
from runtime.decoding.loop import Loop
from runtime.decoding.protocols import Drafter, Model, Verifier
from runtime.decoding.sampling import SamplingParams, seed_below
from runtime.decoding.stop import StopRule
from runtime.drafters.window import window_of, window_size
from runtime.errors import DraftError, LogitsError

# The limit for the drafter below if none is given. A heuristic: for an int4 intermediate every row has a cost.
USUAL_INNER = chain_limit(3)


class HierarchyDrafter:
    """Drafts chains with ``middle``, for which ``lower`` drafts, for a target with ``vocab_size`` logits.

    Ids that the target lacks are never proposed. Drafts are ONE_HOT, for greedy decoding and sample-and-match. With
    ``drawn`` they are INDEPENDENT and carry the distributions of ``middle``; then ``lower`` should be ``drawn`` as
    well, because more of its tokens are accepted. At temperature 0 every draft is ONE_HOT. ``rule`` replaces the
    acceptance rule for drafts of ``lower``; then drafts are ONE_HOT, too.
    """

    def __init__(
        self,
        lower: Drafter,
        middle: Model,
        vocab_size: int,
        name: str = "hierarchy",
        drawn: bool = False,
        rule: Verifier | None = None,
    ) -> None:
        self.name = name
        self._lower, self._middle, self._drawn, self._rule = lower, middle, drawn, rule
        self._vocab_size, self._shared_vocab = vocab_size, min(vocab_size, middle.vocab_size)
        self._text: Context | None = None
        self._seen: Context | None = None
        self._arena = Arena()

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        """See ``Drafter``. ``limit.inner`` is the limit for each draft of the drafter below; None: a chain of 3.

        Such a draft may be accepted as a whole, so drafting ends as soon as there are ``limit.depth`` less
        ``limit.inner.depth`` tokens, and at least one. The draft is empty only if the intermediate's cache is too small
        for a window of two tokens. DraftError if the intermediate's logits are not finite.
        """
        depth = min(limit.nodes, limit.depth, self._middle.max_rows, context.capacity - len(context))
        if depth <= 0 or not window_size(self._middle, context.capacity):
            return Draft()
        self._arena.reset()
        text, seen = self._follow(context)
        rows_read = self._catch_up(seen)
        rule = self._rule_for(text.sampling)
        level = _InnerAdapter(self._lower, rule, text, self._middle.vocab_size, self._shared_vocab)
        loop = Loop(self._middle, seen, {self._lower.name: level}, level, StopRule())
        inner, steps = limit.inner or USUAL_INNER, list[Step]()
        while (drafted := len(text) - len(context)) < max(1, depth - inner.depth):
            # A step also adds a token of the intermediate's own; the draft must not become too long with it.
            pick = Pick(self._lower.name, inner.within(inner.nodes, depth - drafted - 1))
            try:
                steps.append(loop.step(pick))
            except LogitsError as error:
                raise DraftError(self.name, error) from None
            text.append(steps[-1].tokens)
        probs = rule.probs if isinstance(rule, RecordingVerifier) else ()
        return make_chain(
            text.tokens[len(context) :].tolist(),
            kind=DrawKind.INDEPENDENT if probs else DrawKind.ONE_HOT,
            probs={node - 1: row for node, row in enumerate(probs)},
            source=self.name,
            below=tuple(steps),
            rows_read=rows_read,
        )

    def _follow(self, context: Context) -> tuple[Context, Context]:
        """The committed tokens, for the drafter below and the rule; and the window of them that the intermediate reads.

        In the window, ids that the target has and the intermediate lacks are replaced by the intermediate's last id.
        """
        window = window_of(context.tokens, window_size(self._middle, context.capacity))
        if self._vocab_size > self._middle.vocab_size:
            window = np.minimum(window, self._middle.vocab_size - 1)
        self._text = text = _context_of(self._text, context, context.tokens)
        text.constraint = None if context.constraint is None else context.constraint.fork()
        self._seen = seen = _context_of(self._seen, context, window)
        if context.sampling.temperature > 0 and self._drawn:
            text.sampling = replace(context.sampling, seed=seed_below(context.sampling.seed, context.position))
        return text, seen

    def _rule_for(self, sampling: SamplingParams) -> Verifier:
        """The acceptance rule for drafts of the drafter below."""
        if self._rule is not None:
            return self._rule
        if sampling.temperature == 0:
            return GreedyVerifier()
        return RecordingVerifier(self._arena) if self._drawn else MatchVerifier()

    def _catch_up(self, seen: Context) -> int:
        """Rolls the intermediate's cache back to its common prefix with ``seen``; returns how many rows it lacks.

        The row of the last token does not count. The first step's forward computes the missing rows if it has room for
        them; otherwise they are computed here.
        """
        middle = self._middle
        middle.cache.rollback(min(shared_prefix(middle.cache.tokens, seen.tokens), len(seen) - 1))
        kept = middle.cache.length
        if middle.padded(len(seen) - kept) > middle.max_rows:
            middle.prefill(seen.tokens[kept:-1])
        return len(seen) - 1 - kept


class _InnerAdapter:
    """Drafter and acceptance rule of the intermediate's loop: ``lower`` and ``rule``, both on the whole ``text``.

    The intermediate has ``num_ids`` ids and may lack some that were drafted. In its forward they are replaced by its
    last id. The rule gets the draft as it was, and the ``vocab_size`` logits that intermediate and target share: an id
    without a logit is never accepted, and its row is never read.
    """

    name = "level"
    exact = True

    def __init__(self, lower: Drafter, rule: Verifier, text: Context, num_ids: int, vocab_size: int) -> None:
        self._lower, self._rule, self._text = lower, rule, text
        self._num_ids, self._vocab_size = num_ids, vocab_size
        self._guess = Draft()

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        """See ``Drafter``."""
        self._guess = allowed_part(self._lower.propose(self._text, limit), self._text.constraint)
        return replace(self._guess, tokens=tuple(min(token, self._num_ids - 1) for token in self._guess.tokens))

    def accept(self, draft: Draft, logits: FloatArray, context: Context) -> Verdict:
        """See ``Verifier``."""
        guess, self._guess = self._guess, Draft()
        assert guess.parents == draft.parents, (guess, draft)
        return self._rule.accept(guess, logits[:, : self._vocab_size], self._text)


def _context_of(held: Context | None, context: Context, tokens: TokenArray) -> Context:
    """A context of ``tokens`` with the settings and capacity of ``context``; reuses ``held`` if that is as large."""
    if held is None or held.capacity != context.capacity:
        held = Context(context.capacity, context.sampling)
    held.sampling, held.first, held.constraint = context.sampling, context.position - len(tokens), None
    held.truncate(shared_prefix(held.tokens, tokens))
    held.append(tokens[len(held) :].tolist())
    return held
