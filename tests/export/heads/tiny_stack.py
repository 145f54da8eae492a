"""Small checkpoints of Medusa and Hydra heads in the formats that are published, field by field, for the tiny llama."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

VOCABULARY, SIZE, HEADS = 264, 64, 3
# FasterDecoding/medusa-vicuna-7b-v1.3 and ankner/hydra-vicuna-7b-v1.3, but for the sizes.
MEDUSA: dict[str, Any] = {
    "_name_or_path": "medusa-tiny",
    "base_model_name_or_path": "tiny-target",
    "medusa_num_heads": HEADS,
    "medusa_num_layers": 1,
    "transformers_version": "4.33.2",
}
HYDRA: dict[str, Any] = {
    "base_model_name_or_path": "tiny-target",
    "grounded_heads": True,
    "hidden_state_offset": 0,
    "hydra_head_arch": "mlp",
    "hydra_num_heads": HEADS,
    "hydra_num_layers": 3,
    "transformers_version": "4.37.0",
}


def medusa_tensors(layers: int = 1, shared: bool = False, prefix: str = "", heads: int = HEADS) -> dict[str, Any]:
    """Tensors of a module list; with ``shared`` those of version 2, whose heads end in the target's output matrix."""
    torch.manual_seed(5)
    tensors: dict[str, Any] = {}
    for head in range(heads):
        for layer in range(layers):
            tensors |= _linear(f"{prefix}{head}.{layer}.linear", SIZE, SIZE)
        if not shared:
            tensors[f"{prefix}{head}.{layers}.weight"] = torch.randn(VOCABULARY, SIZE) * SIZE**-0.5
    return tensors


def hydra_tensors(grounded: bool = True, heads: int = HEADS) -> dict[str, Any]:
    """Tensors of ``HYDRA``: the layers of a head after the first are one and the same, stored under all its names."""
    torch.manual_seed(6)
    tensors: dict[str, Any] = {}
    for head in range(heads):
        width = SIZE * (head + 2) if grounded else SIZE
        for part in ("linear", "res_connection") if grounded else ("linear",):
            tensors |= _linear(f"hydra_mlp.{head}.0.{part}", width, SIZE)
        later = (
            _linear("", SIZE, SIZE)
            if grounded
            else {f".{k}": tensors[f"hydra_mlp.{head}.0.linear.{k}"] for k in _KINDS}
        )
        for layer in (1, 2):
            tensors |= {f"hydra_mlp.{head}.{layer}.linear{kind}": value.clone() for kind, value in later.items()}
        tensors |= _linear(f"hydra_lm_head.{head}", SIZE, VOCABULARY)
    return tensors


_KINDS = ("weight", "bias")


def _linear(name: str, width: int, size: int) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": torch.randn(size, width) * width**-0.5, f"{name}.bias": torch.randn(size)}


def write_stack(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Path:
    """Writes both to ``folder``."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    kind = "hydra" if "hydra_num_heads" in config else "medusa"
    save_file(dict(tensors), folder / f"{kind}_lm_head.safetensors")
    return folder


def published(
    weights: Mapping[str, torch.Tensor], normed: torch.Tensor, embedded: list[torch.Tensor], output: Any = None
) -> Iterator[torch.Tensor]:
    """The logits of each head for one row, written from the published code.

    ``normed`` is the target's row behind its final norm, ``embedded`` the tokens that follow; ``output`` is the
    target's output matrix.
    """
    for head in range(HEADS):
        x, layer = normed, 0
        name = f"hydra_mlp.{head}" if "hydra_lm_head.0.weight" in weights else str(head)
        if f"{name}.0.res_connection.weight" in weights:
            x = torch.cat([normed, *embedded[: head + 1]], -1)
        while f"{name}.{layer}.linear.weight" in weights:
            grown = _product(weights, f"{name}.{layer}.linear", x)
            kept = f"{name}.{layer}.res_connection"
            x = (_product(weights, kept, x) if f"{kept}.weight" in weights else x) + grown * torch.sigmoid(grown)
            layer += 1
        if output is not None:
            yield x @ output.T
        else:
            yield _product(weights, f"hydra_lm_head.{head}" if name != str(head) else f"{head}.{layer}", x)


def _product(weights: Mapping[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    out = x @ weights[f"{name}.weight"].T
    return out + weights[f"{name}.bias"] if f"{name}.bias" in weights else out
