"""Block verification (Sun et al., arXiv 2403.10444): judge a drawn chain as a whole, not token by token.

It accepts at least as many tokens as the rule of Leviathan et al. in expectation, and is as exact. A running ratio
``weights[i]`` says how far the first i drafted tokens are covered by the target; tokens that are more probable under
the target than under the drafter make up for others before them.
"""

from __future__ import annotations

from runtime.context import Context
from runtime.draft import Draft, FloatArray, Kind
from runtime.verify import Verdict
from runtime.verify.coins import Coins, StepCoins
from runtime.verify.recursive import Array, Target, match_widths, recursive_walk, residual
from runtime.verify.rows import TargetRows


class BlockVerifier:
    """For chains that carry their distributions; any other draft is judged by recursive rejection."""

    name = "block"
    exact = True

    def accept(self, draft: Draft, logits: FloatArray, context: Context) -> Verdict:
        """Judges ``draft`` with random numbers of its own, fixed by the seed and the step's position."""
        rows = TargetRows(draft, logits, context)
        return block_walk(draft, rows.probs, StepCoins(context.sampling.seed, len(context)))


def block_walk(draft: Draft, target: Target, coins: Coins) -> Verdict:
    """The rule itself. ``target(node)`` is the target's distribution after a node (-1: the anchor), ``[vocab]``.

    The accepted length is the largest one whose coin falls, so coins are tossed from the end. Nodes after one that the
    target excludes are never asked for.
    """
    if not _is_drawn_chain(draft):
        return recursive_walk(draft, target, coins)
    pairs: list[tuple[Array, Array]] = []  # of the target and the drafter, for the token after i accepted ones
    weights = [1.0]
    for node, token in enumerate(draft.tokens):
        pairs.append(match_widths(target(node - 1), draft.probs[node - 1]))
        target_probs, draft_probs = pairs[-1]
        chance = float(draft_probs[token]) if token < len(draft_probs) else 0.0
        weights.append(min(1.0, weights[-1] * float(target_probs[token]) / chance) if chance > 0 else 0.0)
        if weights[-1] == 0.0:
            break
    last = len(weights) - 1
    if weights[last] > 0 and coins.accept(weights[last]):
        return Verdict(tuple(range(last)), coins.draw(target(last - 1)))
    for length in range(last - 1, 0, -1):
        if coins.accept(_chance(weights[length], *pairs[length])):
            break
    else:
        length = 0
    target_probs, draft_probs = pairs[length]
    return Verdict(tuple(range(length)), coins.draw(residual(weights[length] * target_probs, draft_probs)))


def _chance(weight: float, target_probs: Array, draft_probs: Array) -> float:
    """The probability that a prefix of ``weight`` stands once every longer one has fallen."""
    left = float((weight * target_probs - draft_probs).clip(min=0).sum())
    return left / (left + 1 - weight) if left + 1 - weight > 0 else 1.0


def _is_drawn_chain(draft: Draft) -> bool:
    drawn = draft.kind is not Kind.ONE_HOT and draft.is_chain
    return drawn and all(parent in draft.probs for parent in draft.parents)
