"""A draft model's window: the latest tokens of a text that is longer than the model's cache.

The draft model reads the window as if the text began there, at position 0. The window's start moves in steps of half a
window. After each move the remaining half is read again, so every token is read about twice, however long the text is.
The window's start depends only on the token count. So it needs no state, and the common prefix of the window and the
cached tokens says, as always, what is left to read.

StreamingLLM (arXiv 2309.17453) also keeps the first tokens of the text, as attention sinks. A window that is read again
has first tokens of its own. With the text's first four tokens in front of it, acceptance fell from 0.617 to 0.610
(window of 129 tokens) and from 0.585 to 0.555 (window of 65); without a window it was 0.625 (answers of 470 tokens by a
3M model, drafted by a 260K one).
"""

from __future__ import annotations

import numpy as np

from runtime.arrays import TokenArray
from runtime.decoding.context import Context, shared_prefix
from runtime.decoding.protocols import Model

# A window of one token would be empty after a move by half of it.
_MIN_WINDOW = 2


def window_size(model: Model, context_capacity: int) -> int:
    """The most committed tokens that ``model`` reads; 0 if its cache is too small for a window.

    The cache has ``max_rows`` rows more than the model has positions. If the positions hold the whole context of
    ``context_capacity`` tokens, the window is all of them: no draft goes beyond the context. Otherwise ``max_rows - 1``
    of them stay free, so that a full window leaves room for a draft.
    """
    positions = model.cache.capacity - model.max_rows
    size = positions if context_capacity <= positions else positions - model.max_rows + 1
    return size if size >= _MIN_WINDOW else 0


def window_start(length: int, size: int) -> int:
    """The index of the first of ``length`` tokens in a window of at most ``size`` tokens; 0 if all fit.

    With a size of 10, 10 tokens are read from 0 on, 11 to 15 from 5 on, 16 to 20 from 10 on.
    """
    step = size // 2
    return max(0, -(-(length - size) // step) * step)


def window_of(tokens: TokenArray, size: int) -> TokenArray:
    """A view of the latest tokens, int32 ``[kept]``: all, or between half of ``size`` and ``size`` of them."""
    return tokens[window_start(len(tokens), size) :]


def missing_tokens(
    model: Model, context: Context, vocab_size: int, drafted: int = 0, left: int = 1
) -> tuple[TokenArray, int]:
    """The committed tokens of the window that a draft model's cache lacks, and how many rows that is beside the last.

    The cache is rolled back to what it has in common with the window. The last token is never in it. If one forward has
    no room for them together with ``drafted`` more rows, all but the latest are read here: at most ``left`` tokens
    remain. Of a target with more ids, ``vocab_size``, padding ids are replaced by the model's last one.
    """
    cache = model.cache
    tokens = window_of(context.tokens, window_size(model, context.capacity))
    if vocab_size > model.vocab_size:
        tokens = np.minimum(tokens, model.vocab_size - 1)
    cache.rollback(min(shared_prefix(cache.tokens, tokens), len(tokens) - 1))
    kept = cache.length
    rows_read = len(tokens) - 1 - kept
    if model.padded(len(tokens) - kept + drafted) > model.max_rows:
        while left > 1 and model.padded(left + drafted) > model.max_rows:
            left -= 1
        model.prefill(tokens[kept:-left])
        kept = len(tokens) - left
    return tokens[kept:], rows_read
