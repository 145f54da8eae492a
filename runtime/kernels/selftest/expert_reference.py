"""The arithmetic of Router and RoutedExperts in NumPy.

``runtime/kernels/ARITHMETIC.md`` is the specification; functions here name its steps by their numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runtime.kernels.selftest.reference import Floats, QuantizedMatrix, dot, exponential, matmul_panel

Chosen = npt.NDArray[np.int64]
_ONE = np.float32(1)


@dataclass(frozen=True)
class ReferenceRouter:
    """The attributes of Router."""

    used: int
    sigmoid: bool
    normalized: bool
    epsilon: float = 0.0
    scale: float = 1.0

    def run(self, x: Floats, weight: Floats, bias: Floats | None, choice_bias: Floats | None) -> tuple[Chosen, Floats]:
        """Rows ``[S, hidden]`` give experts and weights ``[S, used]``."""
        logits = np.concatenate([dot(x, np.broadcast_to(row, x.shape)) for row in weight], axis=1)
        logits = logits if bias is None else logits + bias
        scores = np.stack([self._score(row) for row in logits])
        liked = scores if choice_bias is None else scores + choice_bias
        experts = np.stack([self._choose(row) for row in liked])
        weights = np.take_along_axis(scores, experts, 1)
        if self.normalized:
            weights = weights / (_in_order(weights) + np.float32(self.epsilon))[:, None]
        result: Floats = weights * np.float32(self.scale)
        return experts, result

    def _score(self, logits: Floats) -> Floats:
        """Step 2."""
        if self.sigmoid:
            result: Floats = _ONE / (_ONE + exponential(logits * np.float32(-1)))
            return result
        powers = exponential(logits - logits.max())
        shares: Floats = powers / _in_order(powers[None])[0]
        return shares

    def _choose(self, liked: Floats) -> Chosen:
        """Step 3."""
        return np.argsort(-liked, kind="stable")[: self.used].astype(np.int64)


def _in_order(values: Floats) -> Floats:
    """Sums over the last axis, one number after the other."""
    total = np.zeros(values.shape[0], np.float32)
    for column in values.T:
        total = total + column
    return total


def _clamped_swiglu(gate: Floats, up: Floats, alpha: np.float32, limit: np.float32) -> Floats:
    gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit) + _ONE
    result: Floats = gate / (_ONE + exponential(gate * -alpha)) * up
    return result


def run_experts(
    x: Floats,
    chosen: Chosen,
    weights: Floats,
    gates: Sequence[Sequence[QuantizedMatrix]],
    downs: Sequence[QuantizedMatrix],
    activation: str,
    gate_up_bias: Floats | None = None,
    down_bias: Floats | None = None,
    alpha: float = 0.0,
    limit: float = 0.0,
) -> Floats:
    """RoutedExperts for rows ``[S, hidden]``; ``gates`` has gate and up of every expert."""
    made: list[Floats] = []
    for expert, (gate, down) in enumerate(zip(gates, downs, strict=True)):
        biases = [None if bias is None else bias[expert] for bias in (gate_up_bias, down_bias)]
        if activation == "clamped_swiglu":
            halves = [None, None] if biases[0] is None else np.split(biases[0], 2)
            parts = [matmul_panel(x, [matrix], bias=bias) for matrix, bias in zip(gate, halves, strict=True)]
            inner = _clamped_swiglu(parts[0], parts[1], np.float32(alpha), np.float32(limit))
        else:
            inner = matmul_panel(x, gate, bias=biases[0], activation=activation)
        made.append(matmul_panel(inner, [down], bias=biases[1]))
    y = np.zeros_like(x)
    for row, (experts, shares) in enumerate(zip(chosen, weights, strict=True)):
        terms = [made[expert][row] * share for expert, share in zip(experts, shares, strict=True)]
        y[row] = terms[0]
        for term in terms[1:]:
            y[row] = y[row] + term
    return y
