"""Lowers root-mean-square norms to one ``SimplifiedLayerNormalization``.

A module is such a norm if it behaves like one: a leaf with one weight vector that, on large and small random numbers,
equals ``x / rms(x) * weight`` or ``x / rms(x) * (1 + weight)`` with one of its own floats as epsilon. One that takes a
gate as well is compared with the product of the norm and ``silu(gate)``, or with the norm of such a product.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import nn
from torch.onnx.ops import symbolic

# silu of it is 1.
_OPEN = 1.2784645


@dataclass(frozen=True)
class NormFormula:
    """``x / sqrt(mean(x ** 2) + epsilon) * (offset + weight)``."""

    epsilon: float
    offset: float

    def __call__(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon) * (self.offset + weight)


class LoweredNorm(nn.Module):
    """A norm whose initializer already holds offset + weight."""

    def __init__(self, weight: nn.Parameter, formula: NormFormula) -> None:
        super().__init__()
        self.weight = weight
        self.formula = formula

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The norm over the last axis of ``x``."""
        attributes = {"axis": -1, "epsilon": self.formula.epsilon, "stash_type": 1}
        return symbolic(
            "SimplifiedLayerNormalization", [x, self.weight], attributes, dtype=x.dtype, shape=x.shape, version=1
        )


class LoweredGatedNorm(LoweredNorm):
    """A norm with a gate: of ``x * silu(gate)`` if that comes ``first``, else the norm of x times ``silu(gate)``."""

    def __init__(self, weight: nn.Parameter, formula: NormFormula, first: bool) -> None:
        super().__init__(weight, formula)
        self.first = first

    def forward(self, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """The gated norm over the last axis of ``x``."""
        opened = nn.functional.silu(gate)
        return super().forward(x * opened) if self.first else super().forward(x) * opened


def takes_gate(module: nn.Module) -> bool:
    """Whether the forward of ``module`` has a ``gate`` beside its input."""
    return list(signature(module.forward).parameters)[1:] == ["gate"]


def gate_comes_first(module: nn.Module, formula: NormFormula) -> bool | None:
    """Where the gate of a norm of ``formula`` is multiplied, as in ``LoweredGatedNorm``; None: neither fits."""
    probe = copy.copy(module)
    weight = torch.rand(_width(module)[0]) + 0.5
    probe._parameters = {"weight": nn.Parameter(weight, requires_grad=False)}
    x, gate = torch.randn(3, weight.shape[0]), torch.randn(3, weight.shape[0])
    opened = nn.functional.silu(gate)
    with torch.no_grad():
        got = probe(x, gate)
        for first, wanted in ((True, formula(x * opened, weight)), (False, formula(x, weight) * opened)):
            if torch.allclose(got, wanted, rtol=1e-5, atol=1e-6):
                return first
    return None


def find_formula(module: nn.Module) -> NormFormula | None:
    """The formula that ``module`` computes, or None. It runs the module, so call it outside of fake tensors.

    Of a module that takes a gate, the formula with a gate whose ``silu`` is 1.
    """
    parameters = dict(module.named_parameters())
    if list(parameters) != ["weight"] or parameters["weight"].ndim != 1 or any(True for _ in module.buffers()):
        return None
    probe = copy.copy(module)
    weight = torch.rand(parameters["weight"].shape[0]) + 0.5
    probe._parameters = {"weight": nn.Parameter(weight, requires_grad=False)}
    floats = {value for value in vars(module).values() if isinstance(value, float)}
    rows = torch.randn(3, weight.shape[0])
    for formula in (NormFormula(epsilon, offset) for epsilon in sorted(floats) for offset in (0.0, 1.0)):
        scales = (1.0, max(formula.epsilon, 1e-12) ** 0.5)
        if all(_agrees(probe, formula, rows * scale, weight) for scale in scales):
            return formula
    return None


def lower_norms(model: nn.Module) -> dict[str, float]:
    """Replaces the norms of ``model`` and returns the offset of every weight that has one, by parameter name."""
    found: dict[Any, NormFormula | None] = {}
    offsets: dict[str, float] = {}
    for name, module in list(model.named_modules()):
        if not name or any(True for _ in module.children()):
            continue
        key = (type(module), *(value for value in vars(module).values() if isinstance(value, float)), _width(module))
        if key not in found:
            found[key] = find_formula(module)
        if (formula := found[key]) is not None:
            lowered = _lowered(module, formula)
            if lowered is None:
                continue
            model.set_submodule(name, lowered)
            if formula.offset:
                offsets[f"{name}.weight"] = formula.offset
    return offsets


def _lowered(module: nn.Module, formula: NormFormula) -> LoweredNorm | None:
    weight = module.get_parameter("weight")
    if not takes_gate(module):
        return LoweredNorm(weight, formula)
    first = gate_comes_first(module, formula)
    return None if first is None else LoweredGatedNorm(weight, formula, first)


def _width(module: nn.Module) -> tuple[int, ...]:
    weight = getattr(module, "weight", None)
    return tuple(weight.shape) if isinstance(weight, torch.Tensor) else ()


@torch.no_grad()
def _agrees(probe: nn.Module, formula: NormFormula, x: torch.Tensor, weight: torch.Tensor) -> bool:
    try:
        result = probe(x, torch.full_like(x, _OPEN)) if takes_gate(probe) else probe(x)
    except Exception:
        # A leaf that wants other arguments is no norm; whatever it raises, it stays as it is.
        return False
    return result.shape == x.shape and torch.allclose(result, formula(x, weight), rtol=1e-5, atol=1e-6)
