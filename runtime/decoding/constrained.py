"""Decoding under a constraint: the one place where logits are masked.

A constraint masks raw logits, before every sampling setting. Whoever reads logits asks ``allowed_logits``: acceptance
rules for the target's rows, drafters for their own. So an answer has the target's distribution over what is allowed,
with drafts and without, and drafters do not propose what cannot stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from runtime.arrays import FloatArray, Scratch, TokenArray
from runtime.decoding.constraint import Bits, Constraint
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DrawKind
from runtime.decoding.protocols import StoppingCriterion
from runtime.decoding.sampling import greedy_token
from runtime.decoding.stop import Cut

# Logits that are masked at a time, so that intermediate results stay in the second-level cache.
_PIECE = 32768
# With fewer bytes of bits than this that allow anything, the few allowed logits are copied one by one.
_FEW = 256
# What is added to eight logits, by the byte of their bits: 0 for an allowed token, else minus infinity.
_ADDED = np.where(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"), 0.0, -np.inf)
_ADDED = _ADDED.astype(np.float32)
_EIGHT = np.arange(8)

_floats = Scratch(np.float32)


def allowed_logits(logits: FloatArray, context: Context, path: Sequence[int]) -> FloatArray:
    """``logits``, float32 ``[vocab]``, with minus infinity for tokens that may not follow ``path`` in ``context``.

    Valid until this thread's next call; ``logits`` itself if the context has no constraint, or if it allows none of
    these tokens, as a drafter may lack the only one. Then what is drafted will not stand.
    """
    if context.constraint is None:
        return logits
    return _masked(logits, context.constraint.mask(path), _floats.take("allowed", len(logits)))


def allowed_greedy_token(
    logits: FloatArray, context: Context, path: Sequence[int], before: Sequence[int] | TokenArray
) -> int:
    """The greedy token among those that may follow ``path``: of ``allowed_logits``, with ``before`` as in
    ``sampling.greedy_token``.

    Most often the most probable token of all may follow, and then no logits are masked.
    """
    token = greedy_token(logits, before, context.sampling)
    if context.constraint is None or context.constraint.allows(path, token):
        return token
    return greedy_token(allowed_logits(logits, context, path), before, context.sampling)


def _masked(logits: FloatArray, bits: Bits, out: FloatArray) -> FloatArray:
    """Writes ``logits`` to ``out`` where ``bits`` allow the token, else minus infinity; bits may be more or fewer."""
    known = min(len(logits), 8 * len(bits))
    used = np.flatnonzero(bits)
    if len(used) < _FEW:
        chosen = (8 * used[:, None] + _EIGHT)[np.unpackbits(bits[used, None], axis=1, bitorder="little").view(np.bool_)]
        chosen = chosen[chosen < known]
        if not len(chosen):
            return logits
        out.fill(-np.inf)
        out[chosen] = logits[chosen]
        return out
    out[known:] = -np.inf
    added = _floats.take("added", _PIECE).reshape(-1, 8)
    for start in range(0, known, _PIECE):
        end = min(start + _PIECE, known)
        rows = bits[start // 8 : -(-end // 8)]
        np.take(_ADDED, rows, axis=0, out=added[: len(rows)], mode="clip")
        np.add(logits[start:end], added.reshape(-1)[: end - start], out=out[start:end])
    return out


def allowed_part(draft: Draft, constraint: Constraint | None) -> Draft:
    """The nodes of ``draft`` that may stand where they are, for drafters that know nothing of the constraint.

    A drawn draft stays as it is: to leave out what was drawn would change the law of an answer. Its tokens that are not
    allowed have no chance with the target.
    """
    if constraint is None or not draft.tokens or draft.kind is not DrawKind.ONE_HOT:
        return draft
    paths: dict[int, list[int]] = {-1: []}
    for node, (token, parent) in enumerate(zip(draft.tokens, draft.parents, strict=True)):
        if parent in paths and constraint.count_allowed([*paths[parent], token]) == len(paths[parent]) + 1:
            paths[node] = [*paths[parent], token]
    kept = [node for node in paths if node >= 0]
    if len(kept) == len(draft):
        return draft
    place = {node: number for number, node in enumerate(kept)} | {-1: -1}
    return replace(
        draft,
        tokens=tuple(draft.tokens[node] for node in kept),
        parents=tuple(place[draft.parents[node]] for node in kept),
        chances=tuple(draft.chances[node] for node in kept) if draft.chances else (),
    )


class EndingWith:
    """A stop rule that also ends the answer where its constraint does."""

    def __init__(self, rule: StoppingCriterion, constraint: Constraint) -> None:
        self._rule, self._constraint = rule, constraint

    def cut(self, generated: Sequence[int], fresh: int) -> Cut:
        """See ``StoppingCriterion``. An answer that is complete with its last permitted token was not cut short."""
        cut = self._rule.cut(generated, fresh)
        begin = len(generated) - fresh
        end = self._constraint.end(generated[begin : begin + cut.keep])
        return end if end is not None and (end.keep < cut.keep or cut.reason in (None, "length")) else cut
