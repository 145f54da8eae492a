"""How much a check may run, in tokens and bytes. Estimates need it before torch loads: the standard library alone."""

from __future__ import annotations

from export.manifest import ModelShape

# Bytes of weights in a piece of a graph, which a check opens one after another.
PIECE_BYTES = 192 << 20
# Bounds of a check: tokens, float32 logits of one model, and multiply-adds of one forward (about 10 s on 2 cores).
MAX_TOKENS = 256
MAX_LOGITS_BYTES = 128 << 20
MAX_MULTIPLICATIONS = 500e9
MIN_TOKENS = 16
# So many tokens tell a right graph from a wrong one, since every row of every step counts. A check runs over no more
# where memory is short.
LEAN_TOKENS = 24


def count_tokens(shape: ModelShape, available: int) -> int:
    """How many tokens a check of a model of this shape takes, out of ``available``."""
    projections = shape.hidden_size * shape.head_size * (2 * shape.heads + 2 * shape.kv_heads)
    layer = projections + 3 * shape.hidden_size * shape.mlp_size
    per_token = shape.layers * layer + shape.hidden_size * shape.vocab_size
    affordable = int(min(MAX_LOGITS_BYTES / (4 * shape.vocab_size), MAX_MULTIPLICATIONS / per_token))
    return min(available, shape.positions, MAX_TOKENS, max(MIN_TOKENS, affordable))
