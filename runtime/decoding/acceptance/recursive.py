"""Recursive rejection: tries the children of a node in turn, each against what earlier ones left of the distribution.

SpecInfer (arXiv 2305.09781) for siblings drawn with replacement, and its analogue without. A child drawn from
``draft_probs`` is accepted with ``min(1, target_probs / draft_probs)``; after a rejection, the next child is compared
with the normalized positive part of ``target_probs - draft_probs``. A chosen (one-hot) child is accepted with its
probability; a rejection removes its token from the target. With a single child it is the rule of Leviathan et al.
(2211.17192).
"""

from __future__ import annotations

from collections.abc import Callable

from runtime.arrays import Arena, FloatArray
from runtime.decoding.acceptance.coins import Coins, StepCoins
from runtime.decoding.acceptance.distributions import Law, Probs
from runtime.decoding.acceptance.rows import TargetRows
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DrawKind, Verdict

TargetProbs = Callable[[int], Probs]


class RecursiveVerifier:
    """For trees and chains; nodes without a distribution count as one-hot."""

    name = "recursive"
    exact = True

    def __init__(self) -> None:
        self._arena = Arena()

    def accept(self, draft: Draft, logits: FloatArray, context: Context) -> Verdict:
        """Judges ``draft`` with random numbers of its own, fixed by the seed and the step's position."""
        self._arena.reset()
        rows = TargetRows(draft, logits, context, self._arena.take)
        return recursive_walk(draft, rows.probs, StepCoins(context.sampling.seed, context.position))


def recursive_walk(draft: Draft, target: TargetProbs, coins: Coins) -> Verdict:
    """The rule itself. ``target(node)`` is the target's distribution after a node (-1: the anchor), ``[vocab]``."""
    path: list[int] = []
    while True:
        node = path[-1] if path else -1
        child, left = _try_children(draft, node, target(node), coins)
        if child is None:
            return Verdict(tuple(path), coins.draw(left))
        path.append(child)


def _try_children(draft: Draft, node: int, target_probs: Probs, coins: Coins) -> tuple[int | None, Probs]:
    """The accepted child of ``node``, or None and the distribution to draw from instead."""
    children = draft.children(node)
    if not children:
        return None, target_probs
    draft_probs = None if draft.kind is DrawKind.ONE_HOT else draft.probs.get(node)
    child, left = (
        _try_chosen(draft, children, Law(target_probs), coins)
        if draft_probs is None
        else _try_drawn(draft, children, Law(target_probs), Law(draft_probs), coins)
    )
    return child, left.weights


def _try_chosen(draft: Draft, children: list[int], left: Law, coins: Coins) -> tuple[int | None, Law]:
    for child in children:
        chance = left.chance(draft.tokens[child])
        if coins.accept(chance):
            return child, left
        if 0 < chance < 1:
            left = left.without(draft.tokens[child])
    return None, left


def _try_drawn(draft: Draft, children: list[int], left: Law, drawn: Law, coins: Coins) -> tuple[int | None, Law]:
    for child in children:
        token = draft.tokens[child]
        chance = drawn.chance(token)
        if chance == 0.0:  # it cannot have been drawn; skipping it is exact, whatever the drafter did
            continue
        if coins.accept(left.chance(token) / chance):
            return child, left
        excess = left.excess(drawn)
        if excess.total > 0:  # otherwise both distributions are equal up to rounding
            left = excess
        if draft.kind is DrawKind.WITHOUT_REPLACEMENT:
            drawn = drawn.without(token)
    return None, left
