"""A drafter's window: what a model with few rows of cache reads of a conversation of any length.

Such a drafter reads the latest tokens as if the text began there, at position 0. The window's beginning moves in steps
of half a window: then the kept half is read again, so that a token is read about twice, however long the text is. Where
a window begins hangs on the number of tokens alone. So there is no state that could go wrong, and the common prefix
with what the model has cached tells, as ever, what is left to read.

StreamingLLM (Xiao et al. 2024) also keeps the first tokens, in which attention rests. A window that is read again has
first tokens of its own: with the text's first four in front, acceptance fell from 0.617 to 0.610 (window of 129 tokens)
and from 0.585 to 0.555 (65; 0.625 without a window; answers of 470 tokens by a 3M model, drafted by a 260K one).
"""

from __future__ import annotations

from runtime.arrays import TokenArray
from runtime.decoding.protocols import Model

# Of one token nothing is left when the window moves.
_MIN_WINDOW = 2


def window_size(model: Model, context_capacity: int) -> int:
    """The most committed tokens in the cache of ``model``, which has ``max_rows`` rows more than it has positions.

    One draft's rows less than the positions, so that no draft is cut short at the end of the window; all of them if
    the context has no more, since then no draft goes beyond. 0 where that is too little for a window.
    """
    positions = model.cache.capacity - model.max_rows
    size = positions if context_capacity <= positions else positions - model.max_rows + 1
    return size if size >= _MIN_WINDOW else 0


def window_start(length: int, size: int) -> int:
    """The first of ``length`` tokens that a window of at most ``size`` tokens shows; 0 if they all fit.

    With a size of 10, 10 tokens are read from 0 on, 11 to 15 from 5 on, 16 to 20 from 10 on.
    """
    step = size // 2
    return max(0, -(-(length - size) // step) * step)


def window_of(tokens: TokenArray, size: int) -> TokenArray:
    """A view of the tokens in the window: at least half of ``size`` and at most ``size`` of the latest, or all."""
    return tokens[window_start(len(tokens), size) :]
