"""Muon (Jordan et al. 2024): momentum whose matrix updates Newton-Schulz iterations make orthogonal.

torch has the same optimizer, but iterates in bfloat16, which CPUs without bfloat16 units emulate a hundred times
slower. This one iterates in float32, over all matrices of one shape at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch

# The quintic's coefficients and the number of iterations are Jordan's.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """The nearest semi-orthogonal matrices, roughly; float32 ``[n, rows, columns]`` in and out."""
    a, b, c = _QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Orthogonalized Nesterov momentum; ``lr`` means what it means in AdamW, because updates have the same RMS."""

    def __init__(self, weights: Iterable[torch.Tensor], lr: float, momentum: float = 0.95, decay: float = 0.0) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """One update of every weight that has a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[torch.Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    shapes[weight.shape].append(weight)
            for weights in shapes.values():
                self._step_shape(weights, group)

    def _step_shape(self, weights: list[torch.Tensor], group: dict[str, Any]) -> None:
        updates = []
        for weight in weights:
            state = self.state[weight]
            mean = state.setdefault("momentum", torch.zeros_like(weight))
            mean.lerp_(weight.grad, 1 - group["momentum"])
            updates.append(torch.lerp(weight.grad, mean, group["momentum"]))
        rows, columns = weights[0].shape
        scale = 0.2 * max(rows, columns) ** 0.5  # Liu et al. 2025: the RMS of an AdamW update
        for weight, update in zip(weights, orthogonalize(torch.stack(updates)), strict=True):
            weight.mul_(1 - group["lr"] * group["decay"]).sub_(update, alpha=group["lr"] * scale)
