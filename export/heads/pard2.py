"""PARD-2 drafters (arXiv 2605.08632): small models that draft in parallel and read hidden rows of one target.

Row t has the token at position t and the target's hidden rows at position t - 1, zeros at the first: a projection of
them, scaled, is added to the embedded token. A mask's row has those of the newest row that is known. A checkpoint says
which of the target's hidden states these are, counted as transformers does (``pard2_target_layers``; the last one is
behind the final norm). It works without the projection too, as it was trained to (``sources.parallel_drafts``).

Published checkpoints have the projection in a pickled file, which is never opened; it is read from safetensors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from export.heads.head import DecoderHead, Head, HeadError
from export.manifest import Tap
from export.sources.config_names import read_size
from export.sources.parallel_drafts import LAYERS_KEY, PROJECTION_FILE

ARCHITECTURE = "pard2"
# Those whose final norm is the plain one, and whose layers lie where taps are found.
_FAMILIES = ("llama", "qwen2", "qwen3")
_PROJECTION = "target_proj.weight"
SCALE_KEY, WIDTH_KEY, _BIAS_KEY = "pard2_scale", "pard2_target_dim", "pard2_proj_bias"
_SCALE = 0.02  # of PARD-2's own checkpoints


class Pard2Model(DecoderHead):
    """``decoder`` with the projection of hidden rows, ``size`` wide each; those ``normed`` pass the target's norm."""

    def __init__(self, decoder: Any, size: int, normed: tuple[bool, ...], target: Any) -> None:
        super().__init__(decoder)
        self._size, self._normed = size, normed
        self._scale = float(getattr(decoder.config, SCALE_KEY, None) or _SCALE)
        self.target_proj = nn.Linear(size * len(normed), decoder.config.hidden_size, bias=False)
        if any(normed):
            self.target_norm = type(decoder.model.norm)(size, eps=target.rms_norm_eps)

    def enter(self, features: torch.Tensor) -> torch.Tensor:
        """See ``DecoderHead``."""
        parts = zip(features.split(self._size, -1), self._normed, strict=True)
        rows = torch.cat([self.target_norm(part) if normed else part for part, normed in parts], -1)
        projected: torch.Tensor = self._scale * self.target_proj(rows)
        return projected

    def mix(self, embedded: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """See ``DecoderHead``."""
        return embedded + hidden


def has_projection(config: Any, folder: Path | None) -> bool:
    """Whether a drafter of ``config``, with its checkpoint in ``folder``, can read hidden rows of its target."""
    known = getattr(config, LAYERS_KEY, None) is not None
    return known and folder is not None and (folder / PROJECTION_FILE).is_file()


def pard2_head(config: Any, target: Any) -> Head:
    """The drafter of ``config`` for a target of that configuration; HeadError where they do not fit."""
    if {config.model_type, target.model_type} - set(_FAMILIES):
        raise HeadError(
            f"a PARD-2 drafter of {config.model_type} layers for {target.model_type}; supported are"
            f" {', '.join(_FAMILIES)}: delete {PROJECTION_FILE} to use it without the target's hidden rows"
        )
    if getattr(config, _BIAS_KEY, False):
        raise HeadError(f"the PARD-2 drafter's projection has a bias ({_BIAS_KEY}), which is not supported")
    size, layers = read_size(target, "hidden_size"), read_size(target, "layers")
    reads = _taps(config, layers)
    width = getattr(config, WIDTH_KEY, None) or size * len(reads)
    if width != size * len(reads):
        raise HeadError(
            f"the PARD-2 drafter is made for hidden rows of {width}, and the target has {size * len(reads)}; name"
            f" another, or delete {PROJECTION_FILE} to use it without them"
        )
    normed = tuple(tap == layers for tap in reads)
    make = lambda decoder: Pard2Model(decoder, size, normed, target)  # noqa: E731
    return Head(ARCHITECTURE, config, reads, size, make, pard2_name, own_tokens=True)


def _taps(config: Any, layers: int) -> tuple[Tap, ...]:
    """The taps that hold the hidden states of ``config``; HeadError if the target has none of these."""
    named = getattr(config, LAYERS_KEY)
    valid = isinstance(named, list) and all(type(each) is int and -layers - 1 <= each <= layers for each in named)
    taps = tuple(each % (layers + 1) for each in named) if valid else ()
    if not taps or len(set(taps)) < len(taps):
        raise HeadError(
            f"the PARD-2 drafter reads hidden states {named!r} of a target of {layers} layers; name another"
        )
    return taps


def pard2_name(tensor: str) -> str | None:
    """The parameter of ``Pard2Model`` that a tensor of the checkpoint is; None if it is none of its own."""
    known = tensor.startswith("model.") or tensor in ("lm_head.weight", _PROJECTION)
    return tensor if known else None
