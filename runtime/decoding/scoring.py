"""Scores a given text: the log probability of each of its tokens after those before it, as many rows at once as fit."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from export.manifest import PocketspecError
from runtime.arguments import as_whole
from runtime.decoding.logprobs import TokenLogprob, token_logprob
from runtime.decoding.loop import fill_cache
from runtime.decoding.protocols import Model, fitting_rows
from runtime.errors import ContextFullError


def score(target: Model, tokens: Sequence[int], first: int, top: int) -> Generator[TokenLogprob, None, None]:
    """The log probabilities of ``tokens[first:]`` with ``top`` alternatives each; ``first`` is at least 1.

    Rows before that of ``tokens[first - 1]`` need no logits: those that the cache holds are kept, the others are read
    like a prompt. All later rows run, even if the cache holds them. A forward has no more rows than one that verifies a
    draft, so their logits fit where the plan has room for such. The model may be resized between two tokens.
    """
    fill_cache(target, tokens[: first - 1])
    while (place := target.cache.length) < len(tokens) - 1:
        rows = fitting_rows(target, len(tokens) - 1 - place)
        following = tokens[place + 1 : place + 1 + rows]
        logits = target.forward(tokens[place : place + rows]).logits
        yield from [token_logprob(row, token, top) for row, token in zip(logits, following, strict=True)]


def check_scored(num_tokens: int, first: Any, capacity: int) -> None:
    """Refuses a text that cannot be scored from its token ``first`` on in a context of ``capacity`` tokens."""
    if not 1 <= num_tokens <= capacity:
        raise ContextFullError(
            f"a text of {num_tokens} tokens is scored; allowed are 1 to {capacity} in a context of {capacity}: shorten"
            " the text, open the bundle with a larger context, or score windows, as python -m runtime perplexity does"
        )
    number = as_whole(first)
    if number is None or not 1 <= number <= num_tokens:
        raise PocketspecError(
            f"first is {first!r}, allowed: 1 to {num_tokens}; the token at 0 has nothing before it, and has no value"
        )
