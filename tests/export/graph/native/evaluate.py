"""Native graphs evaluated in NumPy: our operators from the packed bytes, in plain float arithmetic.

What the C++ operators round (activations to int8) is not rounded here, so that a graph can be compared with the
portable one up to the last digits of float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from runtime.kernels.weights.layout import MatrixLayout
from tests.export.filled import CAPACITY, Runner
from tests.runtime.kernels.weights.unpacking import portable_rows, unpack_codes, unpack_scales, unpack_zero_points

Array = np.ndarray


def weights_of(
    codes: Array,
    scales: Array,
    zero_points: Array | None,
    rows: int,
    columns: int,
    bits: int,
    size: int,
    parts: int = 1,
) -> Array:
    """The matrix ``[parts * rows, columns]`` that packed tensors stand for."""
    layout = MatrixLayout(rows, columns, bits, size, parts)
    stored = portable_rows(unpack_codes(codes, bits), layout)
    values = _codes(stored.reshape(len(stored), -1), bits).reshape(len(stored), layout.blocks, size)
    zeros: Any = layout.middle
    if zero_points is not None:
        zeros = portable_rows(unpack_zero_points(zero_points, bits), layout)
        zeros = _codes(zeros, bits)[:, : layout.blocks, None].astype(np.float32)
    factors = portable_rows(unpack_scales(scales), layout)[..., None]
    return ((values.astype(np.float32) - zeros) * factors).reshape(len(stored), -1)[:, :columns]


def _codes(stored: Array, bits: int) -> Array:
    return stored if bits == 8 else np.stack((stored & 15, stored >> 4), -1).reshape(len(stored), -1)


def norm(x: Array, gain: Array, epsilon: float) -> Array:
    """The root-mean-square norm over the last axis."""
    return x / np.sqrt(np.mean(np.square(x), -1, keepdims=True) + np.float32(epsilon)) * gain


def rotate(x: Array, cos: Array, sin: Array, interleaved: int) -> Array:
    """Rotary embedding of ``[heads, rows, size]`` by ``[rows, rotary_size / 2]``."""
    size = 2 * cos.shape[-1]
    turned, rest = x[..., :size], x[..., size:]
    first, second = (turned[..., 0::2], turned[..., 1::2]) if interleaved else np.split(turned, 2, -1)
    pair = first * cos - second * sin, second * cos + first * sin
    joined = np.stack(pair, -1).reshape(turned.shape) if interleaved else np.concatenate(pair, -1)
    return np.concatenate((joined, rest), -1)


def silu(x: Array) -> Array:
    """x * sigmoid(x)."""
    return x / (1 + np.exp(-x))


def gelu_tanh(x: Array) -> Array:
    """The tanh form of GELU."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi).astype(np.float32) * (x + np.float32(0.044715) * x**3)))


class MatMulPanel(OpRun):
    op_domain = "pocketspec"

    def _run(
        self,
        a: Array,
        codes: Array,
        scales: Array,
        zero_points: Array | None = None,
        bias: Array | None = None,
        gain: Array | None = None,
        residual: Array | None = None,
        **given: Any,
    ) -> tuple[Array]:
        activation = given.get("activation")
        sizes = given["N"], given["K"], given["bits"], given["block_size"]
        weights = weights_of(codes, scales, zero_points, *sizes, parts=2 if activation else 1)
        rows = a if gain is None else norm(a, gain, given["epsilon"])
        y = rows @ weights.T
        y = y if bias is None else y + bias
        if activation:
            gate, up = np.split(y, 2, -1)
            y = {"silu": silu, "gelu_tanh": gelu_tanh}[activation](gate) * up
        return (np.float32(y if residual is None else y + residual),)


class GatherPanel(OpRun):
    op_domain = "pocketspec"

    def _run(self, ids: Array, codes: Array, scales: Array, zero_points: Any = None, **given: Any) -> tuple[Array]:
        weights = weights_of(codes, scales, zero_points, given["N"], given["K"], given["bits"], given["block_size"])
        return (weights[ids] * np.float32(given.get("scale", 1)),)


class Router(OpRun):
    op_domain = "pocketspec"

    def _run(self, x: Array, weight: Array, bias: Any = None, choice: Any = None, **given: Any) -> tuple[Array, Array]:
        logits = x @ weight.T + (0 if bias is None else bias)
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        scores = 1 / (1 + np.exp(-logits)) if given["sigmoid"] else powers / powers.sum(-1, keepdims=True)
        experts = np.argsort(-(scores + (0 if choice is None else choice)), -1, kind="stable")[:, : given["used"]]
        weights = np.take_along_axis(scores, experts, -1)
        if given["normalized"]:
            weights = weights / (weights.sum(-1, keepdims=True) + given["epsilon"])
        return experts, np.float32(weights * given["scale"])


class RoutedExperts(OpRun):
    op_domain = "pocketspec"

    def _run(self, x: Array, chosen: Array, weights: Array, *stored: Any, **given: Any) -> tuple[Array]:
        given_parts = [*stored, *[None] * 8]
        gate_up, down, biases = given_parts[:3], given_parts[3:6], given_parts[6:8]
        width, hidden, count, y = given["N"], given["K"], given["experts"], np.zeros_like(x)
        for expert in range(count):
            mine = (
                [part if part is None else np.split(part, count)[expert] for part in stack] for stack in (gate_up, down)
            )
            sizes = given["bits"], given["block_size"]
            opened_bias, closed_bias = (0 if bias is None else bias[expert] for bias in biases)
            opened = x @ weights_of(*next(mine), width, hidden, *sizes, parts=2).T + opened_bias
            gate, up = np.split(opened, 2, -1)
            if given["activation"] == "clamped_swiglu":
                gate, up = np.minimum(gate, given["limit"]), np.clip(up, -given["limit"], given["limit"]) + 1
                inner = gate / (1 + np.exp(-np.float32(given["alpha"]) * gate)) * up
            else:
                inner = {"silu": silu, "gelu_tanh": gelu_tanh}[given["activation"]](gate) * up
            share = np.where(chosen == expert, weights, 0).sum(-1, keepdims=True)
            y += (inner @ weights_of(*next(mine), hidden, width, *sizes).T + closed_bias) * share
        return (np.float32(y),)


class CachedAttention(OpRun):
    op_domain = "pocketspec"

    def _run(
        self, qkv: Array, past_key: Array, past_value: Array, positions: Array, total: Array, *more: Any, **given: Any
    ) -> Any:
        cos, sin, tree_bias, q_gain, k_gain, sinks = [*more, *[None] * 6][:6]
        heads, kv_heads, rows = given["num_heads"], given["kv_num_heads"], qkv.shape[1]
        size, past, shared = past_key.shape[3], int(total[0]) - rows, given.get("shared", 0)
        split = qkv[0].reshape(rows, heads + (0 if shared else 2 * kv_heads), size).swapaxes(0, 1)
        query, key, value = split[:heads], split[heads : heads + kv_heads], split[heads + kv_heads :]
        query = query if q_gain is None else norm(query, q_gain, given["epsilon"])
        key = key if k_gain is None else norm(key, k_gain, given["epsilon"])
        if cos is not None:
            angles = cos[positions[0]], sin[positions[0]], given["interleaved"]
            query, key = rotate(query, *angles), key if shared else rotate(key, *angles)
        present_key, present_value = past_key.copy(), past_value.copy()
        if not shared:
            present_key[0, :, past : past + rows], present_value[0, :, past : past + rows] = key, value
        keys, values = (np.repeat(c[0, :, : past + rows], heads // kv_heads, 0) for c in (present_key, present_value))
        scores = query @ keys.swapaxes(1, 2) * np.float32(given["scale"])
        if cap := given.get("softcap"):
            scores = np.float32(cap) * np.tanh(scores / np.float32(cap))
        scores = np.where(_seen(positions[0], past, rows, given.get("window", 0)), scores, -np.inf)
        if tree_bias is not None:
            scores = scores + np.where(tree_bias[0] <= -1e29, -np.inf, tree_bias[0])
        sink = np.full((heads, 1, 1), -np.inf, np.float32) if sinks is None else sinks[:, None, None]
        top = np.maximum(scores.max(-1, keepdims=True), sink)
        shares = np.exp(scores - top)
        y = shares / (shares.sum(-1, keepdims=True) + np.exp(sink - top)) @ values
        y = np.float32(y.swapaxes(0, 1).reshape(1, rows, -1))
        return (y,) if shared else (y, present_key, present_value)


def _seen(positions: Array, past: int, rows: int, window: int) -> Array:
    """Which keys a row sees by order and window, ``[rows, past + rows]``."""
    keys = np.concatenate((np.arange(past), positions))
    causal = np.arange(past + rows) <= past + np.arange(rows)[:, None]
    return causal & (keys > positions[:, None] - window) if window else causal


class SimplifiedLayerNormalization(OpRun):
    def _run(self, x: Array, gain: Array, **given: Any) -> tuple[Array]:
        return (norm(x, gain, given["epsilon"]),)


class SkipSimplifiedLayerNormalization(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x: Array, skip: Array, gain: Array, **given: Any) -> tuple[Array, ...]:
        total = x + skip
        normed = norm(total, gain, given["epsilon"])
        return (normed, normed, normed, total)  # the two between are not used


class RotaryEmbedding(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x: Array, positions: Array, cos: Array, sin: Array, **given: Any) -> tuple[Array]:
        heads = x[0].reshape(x.shape[1], given["num_heads"], -1).swapaxes(0, 1)
        turned = rotate(heads, cos[positions[0]], sin[positions[0]], given["interleaved"])
        return (np.float32(turned.swapaxes(0, 1).reshape(x.shape)),)


_OPERATORS = [
    MatMulPanel,
    GatherPanel,
    Router,
    RoutedExperts,
    CachedAttention,
    SimplifiedLayerNormalization,
    SkipSimplifiedLayerNormalization,
    RotaryEmbedding,
]


class NativeSession:
    """The little of a session that ``Runner`` uses, over a native graph and its packed file."""

    def __init__(self, path: Path) -> None:
        self._model = onnx.load(path)
        # The evaluator would give what an output without a name holds to every input that is left out.
        for number, node in enumerate(self._model.graph.node):
            for place, name in enumerate(node.output):
                node.output[place] = name or f"unnamed.{number}.{place}"
        self._evaluator = ReferenceEvaluator(self._model, new_ops=_OPERATORS)

    def get_outputs(self) -> Sequence[Any]:
        """The graph's outputs, which have a name."""
        return self._model.graph.output

    def run(self, names: Sequence[str], feed: Mapping[str, Array]) -> list[Array]:
        """The named outputs."""
        return list(self._evaluator.run(list(names), dict(feed)))


def open_native(path: Path) -> Runner:
    """The native graph at ``path`` with caches of float32."""
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in onnx.load(path).graph.input}
    past = {name: np.zeros((1, s[1], CAPACITY, s[3]), np.float32) for name, s in shapes.items() if "past" in name}
    return Runner(NativeSession(path), past)  # type: ignore[arg-type]
