"""Chains, token by token, from a function that gives the logits after what was drafted so far.

A draft model computes those logits with one forward for every token, or all of them with one forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from runtime.arrays import Arena, FloatArray
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DraftLimit, DrawKind, make_chain
from runtime.decoding.sampling import RandomStream, draw, passing_row, uniform
from runtime.drafters.confidence import confidence_sampling, is_worth_extending
from runtime.drafters.vocabulary import SharedVocabulary

# Logits after the drafted tokens, float32 ``[columns]``, valid until the next call.
Following = Callable[[Sequence[int]], FloatArray]
Calibration = Callable[[float], float]


def one_hot_chain(
    context: Context,
    limit: DraftLimit,
    following: Following,
    vocabulary: SharedVocabulary,
    calibration: Calibration,
    source: str,
) -> Draft:
    """The most probable tokens, or those that sample-and-match would draw from the drafter's distribution."""
    params, survival = context.sampling, 1.0
    tokens: list[int] = []
    chances: list[float] = []
    while True:
        logits = following(tokens)
        drawn_from, row = None, passing_row(vocabulary.size)
        if params.temperature == 0:
            token = vocabulary.greedy_token(logits, context, tokens)
            if limit.floor > 0:
                drawn_from = vocabulary.distribution(logits, context, tokens, row, confidence_sampling(params))
        else:
            drawn_from = vocabulary.distribution(logits, context, tokens, row)
            token = drawn_from.draw(uniform(params.seed, context.position + len(tokens)))
        tokens.append(token)
        if drawn_from is not None:
            chances.append(drawn_from.chance(token))
            survival *= calibration(chances[-1])
        if len(tokens) == limit.depth or not is_worth_extending(survival, len(tokens), limit.floor):
            return make_chain(tokens, source=source, chances=tuple(chances))


def drawn_chain(
    context: Context,
    limit: DraftLimit,
    following: Following,
    vocabulary: SharedVocabulary,
    calibration: Calibration,
    source: str,
    arena: Arena,
) -> Draft:
    """Tokens drawn with the drafter's own random numbers, with their distributions, which are kept in ``arena``.

    The numbers depend on the position at which the step begins and are counted from there, so no other step uses them.
    Exactness demands that how many tokens are drawn depends only on sizes and on tokens that stay.
    """
    arena.reset()
    tokens: list[int] = []
    chances: list[float] = []
    probs: dict[int, FloatArray] = {}
    survival = 1.0
    while len(tokens) < limit.depth and (not tokens or is_worth_extending(survival, len(tokens), limit.floor)):
        logits = following(tokens)
        row = arena.take(vocabulary.size)
        drawn_from = probs[len(tokens) - 1] = vocabulary.distribution(logits, context, tokens, row).dense(row)
        number = uniform(context.sampling.seed, context.position, RandomStream.DRAFTER, len(tokens))
        tokens.append(draw(drawn_from, number))
        chances.append(float(drawn_from[tokens[-1]]))
        survival *= calibration(chances[-1])
    return make_chain(tokens, kind=DrawKind.INDEPENDENT, probs=probs, source=source, chances=tuple(chances))
