"""The routed experts of a model, from its configuration: how many there are, how many a row uses, in which layers."""

from __future__ import annotations

from typing import Any

from export.manifest import ExpertShape

# What configs of models with experts call their number, and the width of one.
_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
_WIDTHS = ("moe_intermediate_size", "intermediate_size")


def expert_shape(config: Any) -> ExpertShape | None:
    """The experts of a model of ``config``; None if it has none. ValueError where their numbers cannot be right."""
    count = next((number for name in _COUNTS if (number := getattr(config, name, None))), 0)
    layers = sparse_layers(config) if count else ()
    if not layers:
        return None
    used = getattr(config, "num_experts_per_tok", None)
    if not isinstance(used, int) or not 1 <= used <= count:
        raise ValueError(f"a row uses {used} of {count} experts (num_experts_per_tok); allowed are 1 to {count}")
    groups = int(getattr(config, "n_group", None) or 1)
    if groups > 1:
        fault = f", which do not divide {count} experts" if count % groups else ""
        raise ValueError(f"its experts are chosen within {groups} groups{fault}; groups of experts are not supported")
    width = next(size for name in _WIDTHS if (size := getattr(config, name, None)))
    return ExpertShape(len(layers), count, used, int(width))


def sparse_layers(config: Any) -> tuple[int, ...]:
    """The layers that have experts: those from a dense beginning on, every so many, or all."""
    first = int(getattr(config, "num_dense_layers", None) or getattr(config, "first_k_dense_replace", None) or 0)
    step = int(getattr(config, "decoder_sparse_step", None) or 1)
    dense = set(getattr(config, "mlp_only_layers", None) or ())
    layers = range(first, config.num_hidden_layers)
    return tuple(layer for layer in layers if layer not in dense and (layer + 1) % step == 0)
