"""Lowers Gemma 3n's sparse activation: its threshold lies a constant number of deviations above a row's mean.

The model computes that number, a quantile of the normal distribution, in every forward, by a function that ONNX lacks.
"""

from __future__ import annotations

from typing import Any

import torch

_CUT = "_gaussian_topk"


def lower_sparse_activations(model: Any) -> None:
    """Replaces the cut of the modules that have one; call it outside of fake tensors."""
    for module in model.modules():
        if hasattr(module, _CUT):
            share = torch.tensor(module.activation_sparsity, dtype=torch.float32)
            setattr(module, _CUT, _above(float(torch.distributions.Normal(0, 1).icdf(share))))


def _above(deviations: float) -> Any:
    def cut(x: torch.Tensor) -> torch.Tensor:
        mean, deviation = x.mean(-1, keepdim=True), x.std(-1, keepdim=True, unbiased=False)
        return torch.relu(x - (mean + deviation * deviations))

    return cut
