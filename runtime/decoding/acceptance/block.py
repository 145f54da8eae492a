"""Block verification (Sun et al., arXiv 2403.10444): judges a drawn chain as a whole, not token by token.

It is as exact as the rule of Leviathan et al. and accepts at least as many tokens in expectation. A running ratio
``weights[i]`` says how well the target covers the first i drafted tokens; a token that is more probable under the
target than under the drafter makes up for earlier ones.
"""

from __future__ import annotations

from runtime.arrays import Arena, FloatArray
from runtime.decoding.acceptance.coins import Coins, StepCoins
from runtime.decoding.acceptance.distributions import Law
from runtime.decoding.acceptance.recursive import TargetProbs, recursive_walk
from runtime.decoding.acceptance.rows import TargetRows
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DrawKind, Verdict


class BlockVerifier:
    """For chains with their distributions; any other draft is judged by recursive rejection."""

    name = "block"
    exact = True

    def __init__(self) -> None:
        self._arena = Arena()

    def accept(self, draft: Draft, logits: FloatArray, context: Context) -> Verdict:
        """Judges ``draft`` with random numbers of its own, fixed by the seed and the step's position."""
        self._arena.reset()
        rows = TargetRows(draft, logits, context, self._arena.take)
        return block_walk(draft, rows.probs, StepCoins(context.sampling.seed, context.position))


def block_walk(draft: Draft, target: TargetProbs, coins: Coins) -> Verdict:
    """The rule itself. ``target(node)`` is the target's distribution after a node (-1: the anchor), ``[vocab]``.

    The accepted length is the largest one that its random decision accepts, so decisions are made from the end. The
    target is not asked for nodes after one that it excludes.
    """
    if not _is_drawn_chain(draft):
        return recursive_walk(draft, target, coins)
    laws: list[tuple[Law, Law]] = []  # of target and drafter, for the token after i accepted ones
    weights = [1.0]
    for node, token in enumerate(draft.tokens):
        laws.append((Law(target(node - 1)), Law(draft.probs[node - 1])))
        wanted, drawn = (law.chance(token) for law in laws[-1])
        weights.append(min(1.0, weights[-1] * wanted / drawn) if drawn > 0 else 0.0)
        if weights[-1] == 0.0:
            break
    length = len(laws)
    if coins.accept(weights[length]):
        return Verdict(tuple(range(length)), coins.draw(target(length - 1)))
    while True:
        length -= 1
        left = laws[length][0].excess(laws[length][1], weights[length])
        if length == 0 or coins.accept(_chance(weights[length], left.total)):
            break
    if left.total == 0:  # both distributions are equal up to rounding
        left = laws[length][0]
    return Verdict(tuple(range(length)), coins.draw(left.weights))


def _chance(weight: float, excess: float) -> float:
    """The probability that a prefix of ``weight`` is accepted if every longer one was rejected."""
    return excess / (excess + 1 - weight) if excess + 1 - weight > 0 else 1.0


def _is_drawn_chain(draft: Draft) -> bool:
    drawn = draft.kind is not DrawKind.ONE_HOT and draft.is_chain
    return drawn and all(parent in draft.probs for parent in draft.parents)
