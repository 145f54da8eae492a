"""Recursive rejection: try the children of a node one after another, each against what the ones before left over.

SpecInfer (arXiv 2305.09781) for siblings drawn with replacement, and its analogue without. A child drawn from
``draft_probs`` is accepted with ``min(1, target_probs / draft_probs)``; a rejection leaves the normalized positive part
of ``target_probs - draft_probs`` as the target of the next. A chosen (one-hot) child is accepted with its probability,
and a rejection takes the token out of the target. With a single child it is the rule of Leviathan et al. (2211.17192).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.context import Context
from runtime.draft import Draft, FloatArray, Kind
from runtime.verify import Verdict
from runtime.verify.coins import Coins, StepCoins
from runtime.verify.rows import TargetRows

Array = npt.NDArray[np.float64]
Target = Callable[[int], npt.NDArray[np.floating[Any]]]


class RecursiveVerifier:
    """For trees, and for chains too; where the draft carries no distribution, its nodes count as one-hot."""

    name = "recursive"
    exact = True

    def accept(self, draft: Draft, logits: FloatArray, context: Context) -> Verdict:
        """Judges ``draft`` with random numbers of its own, fixed by the seed and the step's position."""
        rows = TargetRows(draft, logits, context)
        return recursive_walk(draft, rows.probs, StepCoins(context.sampling.seed, len(context)))


def recursive_walk(draft: Draft, target: Target, coins: Coins) -> Verdict:
    """The rule itself. ``target(node)`` is the target's distribution after a node (-1: the anchor), ``[vocab]``."""
    path: list[int] = []
    while True:
        node = path[-1] if path else -1
        child, left = _try_children(draft, node, target(node), coins)
        if child is None:
            return Verdict(tuple(path), coins.draw(left))
        path.append(child)


def match_widths(
    target_probs: npt.NDArray[np.floating[Any]], draft_probs: npt.NDArray[np.floating[Any]]
) -> tuple[Array, Array]:
    """Both distributions over the larger of the two vocabularies, float64, each summing to one.

    Levels of one family pad their vocabularies differently; a token that one of them lacks has probability zero there.
    """
    width = max(len(target_probs), len(draft_probs))
    padded = []
    for probs in (target_probs, draft_probs):
        wide = np.zeros(width)
        wide[: len(probs)] = probs
        wide /= wide.sum()
        padded.append(wide)
    return padded[0], padded[1]


def residual(target_probs: Array, draft_probs: Array) -> Array:
    """The target's law after a token drawn from ``draft_probs`` was rejected, summing to one."""
    left = np.maximum(target_probs - draft_probs, 0.0)
    total = left.sum()
    # Nothing is left only if both are equal, and then no rejection happens but by rounding.
    return left / total if total > 0 else target_probs


def _try_children(
    draft: Draft, node: int, target_probs: npt.NDArray[np.floating[Any]], coins: Coins
) -> tuple[int | None, npt.NDArray[np.floating[Any]]]:
    """The accepted child of ``node``, or None and the distribution to draw from instead."""
    children = draft.children(node)
    if not children:
        return None, target_probs
    draft_probs = None if draft.kind is Kind.ONE_HOT else draft.probs.get(node)
    if draft_probs is None:
        return _try_chosen(draft, children, target_probs.astype(np.float64), coins)
    return _try_drawn(draft, children, *match_widths(target_probs, draft_probs), coins)


def _try_chosen(draft: Draft, children: list[int], left: Array, coins: Coins) -> tuple[int | None, Array]:
    total = float(left.sum())
    for child in children:
        token = draft.tokens[child]
        chance = float(left[token]) if token < len(left) else 0.0
        if chance == 0.0:
            continue
        if chance >= total or coins.accept(chance / total):
            return child, left
        left[token] = 0.0
        total = float(left.sum())
    return None, left


def _try_drawn(
    draft: Draft, children: list[int], left: Array, draft_probs: Array, coins: Coins
) -> tuple[int | None, Array]:
    for child in children:
        token = draft.tokens[child]
        chance = float(draft_probs[token]) if token < len(draft_probs) else 0.0
        if chance == 0.0:  # cannot have been drawn; passing over it is exact, whatever the drafter did
            continue
        if coins.accept(float(left[token]) / chance):
            return child, left
        left = residual(left, draft_probs)
        if draft.kind is Kind.WITHOUT_REPLACEMENT:
            draft_probs[token] = 0.0
            draft_probs /= max(float(draft_probs.sum()), np.finfo(np.float64).tiny)
    return None, left
