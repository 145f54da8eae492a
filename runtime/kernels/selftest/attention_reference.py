"""The arithmetic of CachedAttention in NumPy, one row and one head at a time.

``runtime/kernels/ARITHMETIC.md`` is the specification; functions here name its steps by their numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.kernels.selftest.reference import SMALLEST, Bytes, Floats, exponential, fma, norm, quantize

_HIDDEN = np.float32(-1e29)
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ReferenceAttention:
    """One attention layer.

    ``cos`` and ``sin``: float32 [positions, rotary size / 2], or None; gains: [head size], or None; ``sinks``: [heads],
    or None. ``kv_type`` is the type of the cache: "float32", "float16", "int8" or "int4". ``window`` and ``softcap`` 0:
    none.
    """

    heads: int
    kv_heads: int
    head_size: int
    scale: float
    kv_type: str = "float32"
    window: int = 0
    softcap: float = 0.0
    interleaved: bool = False
    cos: Floats | None = None
    sin: Floats | None = None
    query_gain: Floats | None = None
    key_gain: Floats | None = None
    epsilon: float = 0.0
    sinks: Floats | None = None

    def run(
        self, qkv: Floats, positions: Ints, keys: npt.NDArray[Any], values: npt.NDArray[Any], bias: Floats | None
    ) -> tuple[Floats, npt.NDArray[Any], npt.NDArray[Any]]:
        """Attention of rows [S, (heads + 2 kv_heads) * head_size] that follow stored ``keys`` and ``values``.

        ``keys`` and ``values``: [kv_heads, past, width]; ``bias``: [S, past + S]. Returns [S, heads * head_size], and
        keys and values with the rows of the step appended.
        """
        rows, past = len(qkv), keys.shape[1]
        split = qkv.reshape(rows, self.heads + 2 * self.kv_heads, self.head_size)
        queries = self._turn(split[:, : self.heads], self.query_gain, positions) * np.float32(self.scale)
        queries = mix(queries) / _mixed(queries) if self.kv_type == "int4" else queries
        turned = self._turn(split[:, self.heads : self.heads + self.kv_heads], self.key_gain, positions)
        keys = np.concatenate([keys, self.store(turned).swapaxes(0, 1)], 1)
        values = np.concatenate([values, self.store(split[:, -self.kv_heads :]).swapaxes(0, 1)], 1)
        y = np.empty((rows, self.heads, self.head_size), np.float32)
        places = np.concatenate([np.arange(past), positions])
        for row in range(rows):
            row_bias = np.zeros(past + rows, np.float32) if bias is None else bias[row]
            seen = np.flatnonzero(self._sees(places, positions[row], row_bias)[: past + row + 1])
            for head in range(self.heads):
                own = head // (self.heads // self.kv_heads)
                read = self.load(keys[own, seen]), self.load(values[own, seen])
                sink = None if self.sinks is None else self.sinks[head]
                y[row, head] = self._attend(queries[row, head], *read, row_bias[seen], sink)
        y = mix(y) / _mixed(y) if self.kv_type == "int4" else y
        return y.reshape(rows, -1), keys, values

    def store(self, x: Floats) -> npt.NDArray[Any]:
        """Rows [..., head_size] in the form in which the cache holds them."""
        if self.kv_type == "int4":
            return _store_nibbles(x)
        if self.kv_type != "int8":
            with np.errstate(over="ignore"):
                return x.astype(self.kv_type)
        codes, scales = quantize(x.reshape(-1, self.head_size), self.head_size)
        stored = np.concatenate([codes.astype(np.int8), scales.astype(np.float32).view(np.int8)], 1)
        return stored.reshape(*x.shape[:-1], self.head_size + 4)

    def load(self, stored: npt.NDArray[Any]) -> Floats:
        """Float32 rows as attention reads them from the cache."""
        if self.kv_type == "int4":
            return _load_nibbles(stored, self.head_size)
        if self.kv_type != "int8":
            return stored.astype(np.float32)
        scales = np.ascontiguousarray(stored[:, self.head_size :]).view(np.float32)
        return stored[:, : self.head_size].astype(np.float32) * scales

    def _turn(self, x: Floats, gain: Floats | None, positions: Ints) -> Floats:
        """Step 1 for heads [S, heads, head_size], without the scale of queries."""
        if gain is not None:
            x = norm(x.reshape(-1, self.head_size), gain, self.epsilon).reshape(x.shape)
        if self.cos is None or self.sin is None:
            return x
        half = self.cos.shape[1]
        first = np.arange(half) * 2 if self.interleaved else np.arange(half)
        second = first + (1 if self.interleaved else half)
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        turned = x.copy()
        turned[..., first] = fma(x[..., second], -sin, x[..., first] * cos)
        turned[..., second] = fma(x[..., first], sin, x[..., second] * cos)
        return turned

    def _sees(self, places: Ints, position: np.int64, bias: Floats) -> npt.NDArray[np.bool_]:
        near = places > position - self.window if self.window else np.ones(len(places), np.bool_)
        return near & (bias > _HIDDEN)

    def _attend(self, query: Floats, keys: Floats, values: Floats, bias: Floats, sink: np.float32 | None) -> Floats:
        """Steps 3 to 5 for the keys [n, head_size] that one row sees."""
        scores = np.zeros(len(keys), np.float32)
        for d in range(self.head_size):
            scores = fma(query[d], keys[:, d], scores)
        if self.softcap:
            cap = np.float32(self.softcap)
            scores = cap * (
                np.float32(1) + np.float32(-2) / (np.float32(1) + exponential(scores / cap * np.float32(2)))
            )
        scores = scores + bias
        top = scores.max() if sink is None else np.maximum(scores.max(), sink)
        weights = exponential(scores - top)
        lanes = np.zeros(16, np.float32)
        for n, weight in enumerate(weights):
            lanes[n % 16] += weight
        while len(lanes) > 1:
            lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
        y = np.zeros(self.head_size, np.float32)
        for weight, value in zip(weights, values, strict=True):
            y = fma(weight, value, y)
        total = lanes[0] if sink is None else lanes[0] + exponential(np.array(sink - top))
        result: Floats = y * (np.float32(1) / total)
        return result


def mix(x: Floats) -> Floats:
    """Step 2: mixes the heads [..., D] of a 4-bit cache (a Hadamard transform)."""
    size, distance = x.shape[-1], int(_mixed(x)) // 2
    while distance:
        pairs = x.reshape(*x.shape[:-1], size // (2 * distance), 2, distance)
        first, second = pairs[..., 0, :], pairs[..., 1, :]
        with np.errstate(invalid="ignore", over="ignore"):  # infinities become NaN, as specified
            x = np.stack([first + second, first - second], -2).reshape(x.shape)
        distance //= 2
    return x


def _mixed(x: Floats) -> np.float32:
    """The size of the blocks in which a head is mixed."""
    return np.float32(x.shape[-1] & -x.shape[-1])


def _store_nibbles(x: Floats) -> Bytes:
    halves = mix(x).reshape(*x.shape[:-1], 2, x.shape[-1] // 2)
    top = np.abs(halves).max(-1, keepdims=True)
    finite = np.isfinite(top)
    counts = finite & (top >= SMALLEST)
    eighth = np.where(counts, top, np.float32(1)) / np.float32(8)
    scales = _bfloat16(np.where((halves == top).any(-1, keepdims=True), -eighth, eighth))
    codes = np.rint(np.where(counts, halves, np.float32(0)) * (np.float32(1) / scales))
    codes = np.clip(codes, -8, 7).astype(np.int8) + np.int8(8)
    packed = (codes[..., 0, :] | codes[..., 1, :] << 4).astype(np.uint8)
    kept = np.where(finite, np.where(counts, scales, np.float32(0)), np.float32(np.nan))[..., 0]
    upper = np.ascontiguousarray(kept).view(np.uint8).reshape(*x.shape[:-1], 2, 4)[..., 2:]
    return np.concatenate([packed, upper.reshape(*x.shape[:-1], 4)], -1)


def _load_nibbles(stored: Bytes, size: int) -> Floats:
    """Float32 rows [n, size] as attention reads them: still mixed."""
    scales = np.zeros((len(stored), 2, 4), np.uint8)
    scales[..., 2:] = stored[:, size // 2 :].reshape(-1, 2, 2)
    codes = np.stack([stored[:, : size // 2] & 15, stored[:, : size // 2] >> 4], 1).astype(np.float32) - np.float32(8)
    rows: Floats = (codes * scales.view(np.float32)).reshape(-1, size)
    return rows


def _bfloat16(x: Floats) -> Floats:
    """Finite values rounded to bfloat16, ties to even."""
    bits = x.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
