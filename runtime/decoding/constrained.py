"""Decoding under a constraint: the one place where logits are masked.

A constraint masks raw logits, before every sampling setting. Whoever reads logits asks here: acceptance rules for the
target's rows, drafters for their own. So an answer has the target's distribution over what is allowed,
with drafts and without, and drafters do not propose what cannot stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from runtime.arrays import FloatArray, Scratch, TokenArray
from runtime.decoding.allowed_tokens import AllowedTokens, allowed_tokens
from runtime.decoding.constraint import Constraint
from runtime.decoding.context import Context
from runtime.decoding.distribution import Distribution
from runtime.decoding.draft import Draft, DrawKind
from runtime.decoding.exact_math import Ids
from runtime.decoding.protocols import StoppingCriterion
from runtime.decoding.sampling import SamplingParams, distribution, greedy_token
from runtime.decoding.stop import Cut

_floats = Scratch(np.float32)


def allowed_distribution(
    logits: FloatArray,
    context: Context,
    path: Sequence[int],
    before: Sequence[int] | TokenArray,
    out: FloatArray,
    params: SamplingParams | None = None,
    tokens: Ids | None = None,
) -> Distribution:
    """What the token after ``path`` is drawn from, by ``logits``, float32 ``[vocab]``.

    ``before`` and ``out`` are as in ``sampling.distribution``; ``params`` None are the context's. If the context's
    constraint allows none of these tokens, as a drafter may lack the only one, all are; what is drafted will not stand.
    ``tokens``, ascending, are those that the logits are of, if they are not of all: the others have no weight.
    """
    params = params or context.sampling
    allowed = _columns_after(context, path, len(logits), tokens)
    if tokens is None:
        return distribution(logits, before, params, out, allowed)
    found = distribution(logits, _columns_of(before, tokens), params, _floats.take("some", len(logits)), allowed)
    return Distribution(len(out), found.weights, tokens if found.tokens is None else tokens[found.tokens])


def allowed_logits(logits: FloatArray, context: Context, path: Sequence[int]) -> FloatArray:
    """``logits``, float32 ``[vocab]``, with minus infinity for tokens that may not follow ``path`` in ``context``.

    Valid until this thread's next call; ``logits`` itself if the context has no constraint, or if it allows none of
    these tokens.
    """
    allowed = _columns_after(context, path, len(logits), None)
    return logits if allowed is None else allowed.masked(logits, _floats.take("allowed", len(logits)))


def allowed_greedy_token(
    logits: FloatArray,
    context: Context,
    path: Sequence[int],
    before: Sequence[int] | TokenArray,
    tokens: Ids | None = None,
) -> int:
    """The greedy token among those that may follow ``path``: of ``allowed_logits``, with ``before`` as in
    ``sampling.greedy_token`` and ``tokens`` as in ``allowed_distribution``.

    Most often the most probable token of all may follow, and then no logits are masked.
    """
    before = before if tokens is None else _columns_of(before, tokens)
    column = greedy_token(logits, before, context.sampling)
    if context.constraint is not None and not context.constraint.allows(path, _token_of(column, tokens)):
        allowed = _columns_after(context, path, len(logits), tokens)
        if allowed is not None:
            masked = allowed.masked(logits, _floats.take("allowed", len(logits)))
            column = greedy_token(masked, before, context.sampling)
    return _token_of(column, tokens)


def _columns_after(context: Context, path: Sequence[int], size: int, tokens: Ids | None) -> AllowedTokens | None:
    """The columns of ``size`` logits whose tokens may follow ``path``; None for all of them, and where none may.

    Column i is token i, or ``tokens[i]``.
    """
    if context.constraint is None:
        return None
    mask = context.constraint.mask(path)
    if tokens is not None:
        mask = np.packbits(AllowedTokens(mask, 8 * len(mask)).holds(tokens), bitorder="little")
    allowed = allowed_tokens(mask, size)
    return None if allowed.few is not None and not len(allowed.few) else allowed


def _columns_of(before: Sequence[int] | TokenArray, tokens: Ids) -> TokenArray:
    """The places in ``tokens`` of those of the tokens ``before`` that are among them."""
    wanted = np.asarray(before, np.int64)
    places = np.minimum(tokens.searchsorted(wanted), len(tokens) - 1)
    columns: TokenArray = places[tokens[places] == wanted].astype(np.int32)
    return columns


def _token_of(column: int, tokens: Ids | None) -> int:
    return column if tokens is None else int(tokens[column])


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
