"""Three levels: a drafter guesses for an intermediate model, and what that one says is the draft for the target.

The intermediate decodes ahead of the committed tokens as the target would, by speculation: the drafter below proposes a
short chain, one forward of the intermediate judges it, and what stands, with the token that the judgement adds, is
appended, until the draft is long enough. With sample-and-match the intermediate draws with the very random numbers
that the target will use for the same positions, so its draft is what it would say alone, whatever is below it; and the
target judges that draft like any other. This is the chain of SpecMQuant's hierarchy (arXiv 2505.22179), exact for
sampling as well; left out are trees between drafter and intermediate, and drafts that carry their distributions.
"""

from __future__ import annotations

from itertools import takewhile

from runtime.context import Context, TokenArray, shared_prefix
from runtime.draft import Draft, DraftLimit, make_chain
from runtime.drafters import Drafter
from runtime.drafters.window import window_size, window_start
from runtime.model import Model
from runtime.verify.greedy import GreedyVerifier
from runtime.verify.match import MatchVerifier

# Tokens that the drafter below guesses at a time. A heuristic: an intermediate in int4 pays for every row.
INNER_NODES = 3


class HierarchyDrafter:
    """Drafts chains with ``middle``, itself sped up by ``lower``, for a target with ``vocab_size`` logits.

    ``lower`` is asked for chains of at most ``inner_nodes`` tokens; what of them ``middle`` does not know is cut off.
    """

    def __init__(
        self,
        lower: Drafter,
        middle: Model,
        vocab_size: int,
        name: str = "hierarchy",
        inner_nodes: int = INNER_NODES,
    ) -> None:
        assert inner_nodes >= 0
        self.name = name
        self._lower, self._middle, self._inner_nodes = lower, middle, inner_nodes
        self._shared_vocab = min(vocab_size, middle.vocab_size)
        self._ahead: Context | None = None

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        """See ``Drafter``. A chain within the context; empty where the intermediate's cache is too small for it."""
        size = window_size(self._middle, context.capacity)
        depth = min(limit.nodes, limit.depth, self._middle.max_rows, context.capacity - len(context))
        if depth <= 0 or not size:
            return Draft()
        ahead, start = self._ahead_of(context), window_start(len(context), size)
        while len(ahead) < len(context) + depth:
            ahead.append(self._next_tokens(ahead, start, len(context) + depth - len(ahead)))
        return make_chain(ahead.tokens[len(context) :].tolist(), source=self.name)

    def _ahead_of(self, context: Context) -> Context:
        """The text as the intermediate goes on with it: the committed tokens so far."""
        ahead = self._ahead
        if ahead is None or ahead.capacity != context.capacity:
            ahead = self._ahead = Context(context.capacity, context.sampling)
        ahead.sampling = context.sampling
        ahead.truncate(shared_prefix(ahead.tokens, context.tokens))
        ahead.append(context.tokens[len(ahead) :].tolist())
        return ahead

    def _next_tokens(self, ahead: Context, start: int, wanted: int) -> list[int]:
        """Between one and ``wanted`` tokens that the intermediate puts behind ``ahead``, in one forward.

        It reads ``ahead`` from ``start`` on. The last token is always its own, so the drafter guesses one less.
        """
        pending = self._catch_up(ahead, start)
        guess = self._guess(ahead, min(self._inner_nodes, wanted - 1), len(pending))
        output = self._middle.forward([*pending.tolist(), *guess.tokens], None, len(pending) - 1)
        verifier = GreedyVerifier() if ahead.sampling.temperature == 0 else MatchVerifier()
        verdict = verifier.accept(guess, output.logits[:, : self._shared_vocab], ahead)
        return [*(guess.tokens[node] for node in verdict.path), verdict.token]

    def _catch_up(self, ahead: Context, start: int) -> TokenArray:
        """Brings the intermediate's cache to ``ahead``; the tokens, at least one, that its next forward begins with."""
        middle = self._middle
        # Ids that the target has and the intermediate lacks stand for its last one.
        tokens = ahead.tokens[start:].clip(max=middle.vocab_size - 1)
        kept = min(shared_prefix(middle.cache.tokens, tokens), len(tokens) - 1)
        middle.cache.rollback(kept)
        if middle.padded(len(tokens) - kept) > middle.max_rows:
            middle.prefill(tokens[kept:-1])
            kept = len(tokens) - 1
        return tokens[kept:]

    def _guess(self, ahead: Context, wanted: int, pending: int) -> Draft:
        """The drafter's chain: as many tokens as one forward can run behind ``pending`` others."""
        while wanted > 0 and self._middle.padded(pending + wanted) > self._middle.max_rows:
            wanted -= 1
        if wanted <= 0:
            return Draft()
        guess = self._lower.propose(ahead, DraftLimit(wanted, wanted))
        assert guess.is_chain, guess
        return make_chain(list(takewhile(lambda token: token < self._shared_vocab, guess.tokens)))
