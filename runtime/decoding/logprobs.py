"""Log probabilities of tokens: the model's own, from its logits as they are.

They are natural logarithms of the softmax of the raw logits, computed in float64: before the repetition penalty,
temperature, top_k, top_p, min_p and the masks of a constraint, as OpenAI and llama.cpp (without
``post_sampling_probs``) report them. So a token that a setting favours or forces may have a low log probability, and
the values of one text do not depend on how it was sampled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from export.manifest import PocketspecError
from export.perplexity import log_sum_exp
from runtime.arguments import as_whole
from runtime.arrays import FloatArray, at_least
from runtime.decoding.filters import kth_largest
from runtime.decoding.sampling import logits_error


@dataclass(frozen=True)
class TokenLogprob:
    """A ``token`` with the natural logarithm of its probability, given all tokens before it.

    ``top`` are the most probable tokens at its place and their log probabilities, the most probable first and the
    lowest id first at a tie; as many as were asked for, whether ``token`` is one of them or not. A token that the model
    itself excludes has ``-inf``.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def token_logprob(logits: FloatArray, token: int, top: int = 0) -> TokenLogprob:
    """``token`` by the ``logits``, float32 ``[vocab]``, that precede it, with the ``top`` most probable tokens.

    LogitsError if the logits are not numbers.
    """
    norm = log_sum_exp(logits)
    if not math.isfinite(norm):
        raise logits_error(logits.max())
    best = tuple((found, float(logits[found]) - norm) for found in most_probable(logits, top)) if top else ()
    return TokenLogprob(token, float(logits[token]) - norm, best)


def most_probable(logits: FloatArray, count: int) -> list[int]:
    """The ``count`` tokens with the largest of ``logits``, the largest first, the lowest id first at a tie."""
    count = min(count, len(logits))
    kept = np.flatnonzero(at_least(logits, kth_largest(logits, count)))
    found: list[int] = kept[np.argsort(-logits[kept], kind="stable")[:count]].tolist()
    return found


def check_alternatives(count: Any, vocab_size: int) -> int:
    """``count`` of alternatives per token as an integer; PocketspecError if there cannot be so many."""
    number = as_whole(count)
    if number is None or not 0 <= number <= vocab_size:
        raise PocketspecError(
            f"logprobs is {count!r}, allowed: whole numbers from 0 to {vocab_size}, the alternatives to each token; 0"
            " reports the tokens themselves, None nothing"
        )
    return number
