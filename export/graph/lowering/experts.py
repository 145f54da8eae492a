"""Lowers routed experts: a router that chooses some experts for each row, and the experts themselves.

Experts that transformers lets other code run (``use_experts_implementation``) become one ``RoutedExperts`` each. A
router becomes a ``Router`` if it behaves like one: on random numbers it gives the experts and weights of a formula.
``export.graph.expert_functions`` defines both by standard operators, and the native kernels have them built in.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from inspect import signature
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.onnx.ops import symbolic, symbolic_multi_out

from export.graph.expert_functions import CLAMPED, DOMAIN, EXPERTS, ROUTER
from export.graph.recipe import StackOrder
from export.sources.model_shape import ArchitectureError

# What models add to the sum of chosen weights before they divide by it.
_EPSILONS = (0.0, 1e-6, 1e-20)
_PROBE_ROWS = 7


@dataclass(frozen=True)
class RouterFormula:
    """How a router chooses ``used`` experts from its logits, the products of a row with ``weight`` plus ``bias``.

    ``score`` makes weights of logits: "softmax" over all experts, or "sigmoid". The largest weights are chosen, with
    the ``choice_bias`` added for that alone. If ``normalized`` the chosen ones are divided by their sum plus
    ``epsilon``; all are multiplied by ``scale``.
    """

    score: str
    used: int
    normalized: bool
    epsilon: float = 0.0
    scale: float = 1.0

    def __call__(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, choice_bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The experts ``[S, used]`` and their weights."""
        logits = nn.functional.linear(x, weight, bias)
        scores = logits.softmax(-1) if self.score == "softmax" else logits.sigmoid()
        chosen = scores if choice_bias is None else scores + choice_bias
        experts = chosen.topk(self.used, dim=-1).indices
        weights = scores.gather(1, experts)
        if self.normalized:
            weights = weights / (weights.sum(-1, keepdim=True) + self.epsilon)
        return experts, weights * self.scale


class LoweredRouter(nn.Module):
    """Emits ``Router``. Parameters keep their names."""

    def __init__(self, router: nn.Module, formula: RouterFormula) -> None:
        super().__init__()
        self.weight, self.bias = router.weight, getattr(router, "bias", None)
        self.formula = formula

    def forward(self, x: torch.Tensor, choice_bias: torch.Tensor | None = None) -> tuple[None, Any, Any]:
        """No logits, the weights ``[S, used]`` of the chosen experts of rows ``[S, hidden]``, and these experts."""
        formula, shape = self.formula, (x.shape[0], self.formula.used)
        attributes = {
            "used": formula.used,
            "sigmoid": int(formula.score == "sigmoid"),
            "normalized": int(formula.normalized),
            "epsilon": formula.epsilon,
            "scale": formula.scale,
        }
        experts, weights = symbolic_multi_out(
            f"{DOMAIN}::{ROUTER}",
            [x, self.weight, self.bias, choice_bias],
            attributes,
            dtypes=(torch.int64, torch.float32),
            shapes=(shape, shape),
            version=1,
        )
        return None, weights, experts


class Gate(NamedTuple):
    """An activation between gate and up: its name, numbers that it has, and whether rows of gate and up take turns."""

    activation: str
    numbers: dict[str, float]
    alternating: bool


class LoweredExperts(nn.Module):
    """Emits ``RoutedExperts``. Parameters keep their names and, until ``passes.LowerExperts``, their layout."""

    def __init__(self, experts: Any, gate: Gate) -> None:
        super().__init__()
        self.gate_up_proj, self.down_proj = experts.gate_up_proj, experts.down_proj
        self.gate_up_proj_bias = experts.gate_up_proj_bias if experts.has_bias else None
        self.down_proj_bias = experts.down_proj_bias if experts.has_bias else None
        self.gate, self.order = gate, StackOrder(bool(experts.is_transposed), gate.alternating)

    def forward(self, x: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """What the ``chosen`` experts ``[S, used]`` make of rows ``[S, hidden]``, added up with their ``weights``."""
        biases = [] if self.gate_up_proj_bias is None else [None, None, self.gate_up_proj_bias, self.down_proj_bias]
        inputs = [x, chosen, weights, self.gate_up_proj, None, None, self.down_proj, *biases]
        order = {"turned": int(self.order.turned), "alternating": int(self.order.alternating)}
        attributes = {"activation": self.gate.activation, **self.gate.numbers, **order}
        return symbolic(f"{DOMAIN}::{EXPERTS}", inputs, attributes, dtype=x.dtype, shape=x.shape, version=1)


def lower_experts(model: nn.Module) -> int:
    """Replaces experts and their routers, and returns the number of routers.

    It runs modules of ``model``, so call it outside of fake tensors.
    """
    for name, module in list(model.named_modules()):
        if _has_experts(module):
            model.set_submodule(name, LoweredExperts(module, _find_gate(name, module)))
    return _lower_routers(model)


def _lower_routers(model: nn.Module) -> int:
    found: dict[Any, RouterFormula] = {}
    count = 0
    for name, module in list(model.named_modules()):
        if not _is_router(module):
            continue
        key = (type(module), module.weight.shape, module.top_k)
        if key not in found:
            formula = find_formula(module)
            if formula is None:
                raise ArchitectureError(f"its router {name} chooses experts in a way that is not supported")
            found[key] = formula
        model.set_submodule(name, LoweredRouter(module, found[key]))
        count += 1
    return count


def expert_parameters(model: nn.Module) -> set[nn.Parameter]:
    """The matrices of routers and experts, which have places of their own."""
    owners = (module for module in model.modules() if isinstance(module, LoweredRouter | LoweredExperts))
    return {parameter for module in owners for parameter in module.parameters(recurse=False)}


def find_formula(router: Any) -> RouterFormula | None:
    """The formula that ``router`` computes, or None."""
    probe = copy.copy(router)
    # Logits far enough apart that no two experts are equally good.
    random = torch.Generator().manual_seed(0)
    parameters = {
        name: nn.Parameter(torch.randn(tensor.shape, generator=random) * 0.5, requires_grad=False)
        for name, tensor in router._parameters.items()
        if tensor is not None
    }
    probe._parameters = {**router._parameters, **parameters}
    x = torch.randn(_PROBE_ROWS, router.weight.shape[1], generator=random)
    extra = (
        [torch.randn(router.weight.shape[0], generator=random)] if len(signature(router.forward).parameters) > 1 else []
    )
    try:
        with torch.no_grad():
            _, weights, experts = probe(x, *extra)
    except Exception:
        # Whatever it raises, it is no router that is known.
        return None
    choice_bias = extra[0] if extra else None
    scales = {1.0, float(getattr(router, "routed_scaling_factor", 1.0))}
    for score, normalized, epsilon, scale in product(("softmax", "sigmoid"), (True, False), _EPSILONS, scales):
        formula = RouterFormula(score, router.top_k, normalized, epsilon if normalized else 0.0, scale)
        wanted = formula(x, parameters["weight"], parameters.get("bias"), choice_bias)
        if torch.equal(experts, wanted[0]) and torch.allclose(weights, wanted[1], rtol=1e-5, atol=1e-7):
            return formula
    return None


def _is_router(module: Any) -> bool:
    """Whether ``module`` seems to choose experts: it knows how many, and has a matrix and nothing below it."""
    weight = getattr(module, "weight", None)
    is_leaf = not any(True for _ in module.children())
    return is_leaf and isinstance(getattr(module, "top_k", None), int) and getattr(weight, "ndim", 0) == 2


def _has_experts(module: Any) -> bool:
    """Whether ``module`` is experts that transformers lets other code run."""
    return hasattr(module, "is_transposed") and hasattr(module, "down_proj")


def _find_gate(name: str, experts: Any) -> Gate:
    """The activation of the gate; ArchitectureError for experts that differ from ours in anything else."""
    if not experts.has_gate or experts.has_post_expert_norm:
        raise ArchitectureError(f"{name} has norms or no gate, which is not supported")
    rows = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)) * 6
    alpha, limit = (float(getattr(experts, number, None) or 0) for number in ("alpha", "limit"))
    found = experts._apply_gate(rows)
    for alternating in (False, True):
        gate, up = (rows[:, 0::2], rows[:, 1::2]) if alternating else rows.chunk(2, dim=-1)
        below = gate.clamp(max=limit)
        known = {
            "silu": nn.functional.silu(gate) * up,
            "gelu_tanh": nn.functional.gelu(gate, approximate="tanh") * up,
            CLAMPED: below * (alpha * below).sigmoid() * (up.clamp(-limit, limit) + 1),
        }
        for activation, wanted in known.items():
            if torch.allclose(found, wanted, rtol=1e-5, atol=1e-6):
                numbers = {"alpha": alpha, "limit": limit} if activation == CLAMPED else {}
                return Gate(activation, numbers, alternating)
    raise ArchitectureError(f"{name} has an activation that is not supported; silu, gelu_tanh and GPT-OSS's are")
