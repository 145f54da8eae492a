"""The arithmetic of ShortConvolution and LinearRecurrence in NumPy, one row at a time.

``runtime/kernels/ARITHMETIC.md`` is the specification; functions here name its steps by their numbers.
"""

from __future__ import annotations

import numpy as np

from runtime.kernels.selftest.reference import Floats, activate, exponential, fma, norm, sum_of_squares

_ONE = np.float32(1)


def convolve(x: Floats, weight: Floats, bias: Floats | None, silu: bool) -> Floats:
    """ShortConvolution over rows ``[S, channels]`` that nothing precedes; ``weight`` is ``[width, channels]``."""
    width = len(weight)
    rows = np.concatenate([np.zeros((width - 1, x.shape[1]), np.float32), x])
    y = rows[: len(x)] * weight[0]
    for tap in range(1, width):
        y = fma(rows[tap : tap + len(x)], weight[tap], y)
    if bias is not None:
        y = y + bias
    result: Floats = y / (_ONE + exponential(y * np.float32(-1))) if silu else y
    return result


def scale_head(x: Floats, epsilon: float, scale: float | np.float32) -> Floats:
    """LinearRecurrence, step 1, for one head ``[size]``."""
    inverse = _ONE
    if epsilon > 0:
        inverse = _ONE / np.sqrt(sum_of_squares(x[None])[0, 0] + np.float32(epsilon))
    result: Floats = (x * inverse) * np.float32(scale)
    return result


def soften(v: Floats) -> Floats:
    """ln(1 + exp(v)) (LinearRecurrence, step 2)."""
    u = exponential(-np.abs(v))
    s = u / (np.float32(2) + u)
    z, p = s * s, np.full_like(v, _ONE / np.float32(15))
    for divisor in range(13, 0, -2):
        p = p * z + _ONE / np.float32(divisor)
    result: Floats = np.maximum(v, np.float32(0)) + (s * np.float32(2)) * p
    return result


def sigmoid(v: Floats) -> Floats:
    """The rate of a number (LinearRecurrence, step 2)."""
    result: Floats = _ONE / (_ONE + exponential(v * np.float32(-1)))
    return result


def gate_norm(y: Floats, gain: Floats, gate: Floats, epsilon: float) -> Floats:
    """LinearRecurrence, step 4, for rows of heads ``[S, heads, V]``."""
    flat = y.reshape(-1, y.shape[-1])
    result: Floats = norm(flat, gain, epsilon).reshape(y.shape) * activate(gate, "silu")
    return result


def update(
    state: Floats, query: Floats, key: Floats, value: Floats, decay: np.float32, rate: np.float32 | None
) -> tuple[Floats, Floats, Floats]:
    """Step 3 for one row and head: the state ``[K, V]`` after it, its result ``[V]``, and what it adds ``[V]``."""
    faded = state * decay
    added = value
    if rate is not None:
        memory = np.zeros_like(value)
        for i, number in enumerate(key):
            memory = fma(np.full_like(value, number), faded[i], memory)
        added = fma(memory, np.full_like(value, -1), value) * rate
    after, read = np.empty_like(state), np.zeros_like(value)
    for i, number in enumerate(key):
        after[i] = fma(np.full_like(value, number), added, faded[i])
        read = fma(np.full_like(value, query[i]), after[i], read)
    return after, read, added


def run_rows(
    base: Floats,
    updates: Floats,
    folded: int,
    rows: tuple[Floats, Floats, Floats, Floats, Floats | None],
    scale: np.float32,
    epsilon: float,
) -> tuple[Floats, Floats, Floats]:
    """LinearRecurrence: repeats ``updates`` on ``base``, then runs ``rows``; the base moves on by ``folded`` of both.

    ``rows``: queries and keys ``[S, key heads, K]``, values ``[S, heads, V]``, log decays and rates ``[S, heads]``.
    Returns the results, like the values, the base ``[heads, K, V]``, and the updates after it.
    """
    query, key, value, log_decay, rate = rows
    heads, size, _ = base.shape
    key_heads, shared = key.shape[1], heads // key.shape[1]
    state, y, all_updates = base.copy(), np.empty_like(value), list(updates)
    moved = base.copy()
    for row in range(-len(updates), len(value)):
        if row < 0:
            decays, flat_keys, flat_added = np.split(updates[row], [heads, heads + key_heads * size])
            keys, added = flat_keys.reshape(key_heads, size), flat_added.reshape(heads, -1)
            for head in range(heads):
                state[head], *_ = update(state[head], keys[0], keys[head // shared], added[head], decays[head], None)
        else:
            decays = exponential(log_decay[row])
            keys = np.stack([scale_head(key[row, head], epsilon, 1.0) for head in range(key_heads)])
            added = np.empty_like(value[row])
            for head in range(heads):
                q = scale_head(query[row, head // shared], epsilon, scale)
                beta = None if rate is None else rate[row, head]
                state[head], y[row, head], added[head] = update(
                    state[head], q, keys[head // shared], value[row, head], decays[head], beta
                )
            all_updates.append(np.concatenate([decays, keys.ravel(), added.ravel()]))
        if row + len(updates) < folded:
            moved = state.copy()
    pending = np.array(all_updates[folded:], np.float32).reshape(-1, heads * (1 + value.shape[2]) + key_heads * size)
    return y, moved, pending
