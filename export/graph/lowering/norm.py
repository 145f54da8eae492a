"""Lowers root-mean-square norms to one ``SimplifiedLayerNormalization``.

A module is such a norm if it behaves like one: a leaf with one weight vector that, on large and small random numbers,
equals ``x / rms(x) * weight`` or ``x / rms(x) * (1 + weight)`` with one of its own floats as epsilon.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.onnx.ops import symbolic


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


def find_formula(module: nn.Module) -> NormFormula | None:
    """The formula that ``module`` computes, or None. It runs the module, so call it outside of fake tensors."""
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
            model.set_submodule(name, LoweredNorm(module.get_parameter("weight"), formula))
            if formula.offset:
                offsets[f"{name}.weight"] = formula.offset
    return offsets


def _width(module: nn.Module) -> tuple[int, ...]:
    weight = getattr(module, "weight", None)
    return tuple(weight.shape) if isinstance(weight, torch.Tensor) else ()


@torch.no_grad()
def _agrees(probe: nn.Module, formula: NormFormula, x: torch.Tensor, weight: torch.Tensor) -> bool:
    try:
        result = probe(x)
    except Exception:
        # A leaf that wants other arguments is no norm; whatever it raises, it stays as it is.
        return False
    return result.shape == x.shape and torch.allclose(result, formula(x, weight), rtol=1e-5, atol=1e-6)
