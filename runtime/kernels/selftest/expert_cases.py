"""Calls of the operators of experts, with the outputs that the specification demands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from runtime.kernels.selftest.expert_reference import ReferenceRouter, run_experts
from runtime.kernels.selftest.matrices import make_matrix, packed
from runtime.kernels.selftest.numbers import Numbers
from runtime.kernels.selftest.reference import QuantizedMatrix
from runtime.kernels.selftest.state_cases import Arrays, StateCase

_HIDDEN, _WIDTH, _EXPERTS, _USED, _ROWS = 72, 40, 5, 2, 19
_STEPS = (1, 2, 7, 19)
_CLAMP = {"alpha": 1.702, "limit": 1.5}


def expert_cases() -> Iterator[StateCase]:
    """Every kind of router, and experts of both precisions."""
    yield _router("Router", ReferenceRouter(_USED, sigmoid=False, normalized=False))
    yield _router("Router, normalized", ReferenceRouter(_USED, sigmoid=False, normalized=True, scale=2.5), bias=True)
    sigmoid = ReferenceRouter(3, sigmoid=True, normalized=True, epsilon=1e-6)
    yield _router("Router, sigmoid", sigmoid, choice_bias=True)
    yield _experts(4, 32, "silu", own_zeros=False)
    yield _experts(8, 64, "gelu_tanh", own_zeros=True)
    yield _experts(4, 64, "clamped_swiglu", own_zeros=False, biases=True)


def _router(name: str, router: ReferenceRouter, bias: bool = False, choice_bias: bool = False) -> StateCase:
    numbers, count = Numbers(31), 37
    x, weight = numbers.bell((_ROWS, _HIDDEN)), numbers.bell((count, _HIDDEN))
    x[3], x[5, 7] = 0, np.nan
    options = {name: numbers.bell((count,)) for name, given in (("bias", bias), ("choice_bias", choice_bias)) if given}
    experts, weights = router.run(x, weight, options.get("bias"), options.get("choice_bias"))
    attributes: dict[str, float | int] = {
        "used": router.used,
        "sigmoid": int(router.sigmoid),
        "normalized": int(router.normalized),
        "epsilon": router.epsilon,
        "scale": router.scale,
    }
    calls: list[tuple[Arrays, Arrays]] = [
        ({"x": x[:rows], "weight": weight, **options}, {"experts": experts[:rows], "weights": weights[:rows]})
        for rows in _STEPS
    ]
    return name, "Router", attributes, calls


def _experts(bits: int, block: int, activation: str, own_zeros: bool, biases: bool = False) -> StateCase:
    """Rows that share experts and rows that do not; one expert is used by none of the first rows."""
    numbers = Numbers(32 + bits)
    gates = [_matrices(_WIDTH, _HIDDEN, bits, block, own_zeros, (expert, expert + 50)) for expert in range(_EXPERTS)]
    downs = _matrices(_HIDDEN, _WIDTH, bits, block, own_zeros, range(100, 100 + _EXPERTS))
    x = numbers.bell((_ROWS, _HIDDEN))
    x[4, 9] = np.inf
    first = np.arange(_ROWS) * 7 // 3 % (_EXPERTS - 1)
    chosen = np.stack([first, np.where(np.arange(_ROWS) < 2, (first + 1) % 4, _EXPERTS - 1)], 1).astype(np.int64)
    weights = np.abs(numbers.bell((_ROWS, _USED)))
    shapes = {"gate_up_bias": (_EXPERTS, 2 * _WIDTH), "down_bias": (_EXPERTS, _HIDDEN)}
    given: dict[str, Any] = {name: numbers.bell(shape) for name, shape in shapes.items()} if biases else {}
    clamp: dict[str, Any] = _CLAMP if activation == "clamped_swiglu" else {}
    y = run_experts(x, chosen, weights, gates, downs, activation, **given, **clamp)
    matrices = {**_stacked("gate_up", gates), **_stacked("down", [[matrix] for matrix in downs]), **given}
    calls: list[tuple[Arrays, Arrays]] = [
        ({"x": x[:rows], "experts": chosen[:rows], "weights": weights[:rows], **matrices}, {"y": y[:rows]})
        for rows in _STEPS
    ]
    attributes = {"K": _HIDDEN, "N": _WIDTH, "bits": bits, "block_size": block, "experts": _EXPERTS}
    name = f"RoutedExperts (int{bits}{', biases' if biases else ''})"
    return name, "RoutedExperts", {**attributes, **clamp, "activation": activation}, calls


def _matrices(n: int, k: int, bits: int, block: int, own_zeros: bool, seeds: Sequence[int]) -> list[QuantizedMatrix]:
    return [make_matrix(n, k, bits, block, half=bits == 4, own_zeros=own_zeros, seed=seed) for seed in seeds]


def _stacked(name: str, experts: Sequence[Sequence[QuantizedMatrix]]) -> Arrays:
    """The inputs of all experts' matrices, one expert after another."""
    parts = [packed(matrices) for matrices in experts]
    names = {"codes": name, "scales": f"{name}_scales", "zero_points": f"{name}_zeros"}
    return {names[kind]: np.concatenate([part[kind] for part in parts]) for kind in parts[0]}
