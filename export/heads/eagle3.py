"""EAGLE-3 heads (Li et al., arXiv 2503.01840): one layer over three hidden rows of the target.

The rows at the taps are multiplied down to one. The layer's attention reads it and the embedded token side by side,
each normalized, and the stream goes on with the hidden row alone. The head's own hidden rows are those in front of its
final norm. Its output matrix may have the rows of some tokens alone.

Known are checkpoints of SpecForge, AngelSlim and vLLM (a llama with ``Eagle3`` in its ``architectures``) and those of
speculators (``speculators_model_type``). Taps are counted in two ways: at the top of a configuration, and by default, a
tap is the stream in front of that layer; those in ``eagle_config`` are behind it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from export.heads.head import DecoderHead, Head, HeadError
from export.heads.stack_formats import stack_config
from export.manifest import Tap
from export.sources.config_names import read_size
from export.sources.targets import load_config
from export.untrusted import MOST_JSON, UntrustedError, first_line, parse_json, read_text

ARCHITECTURE = "eagle3"
_SPECULATORS, _TAPS = "speculators_model_type", "eagle_aux_hidden_state_layer_ids"
_TENSOR = re.compile(r"^(?:model\.)?(?:(midlayer|layers\.0)\.)?(.+)$")
_PLAIN = {"fc.weight": "fc.weight", "fc.bias": "fc.bias", "norm.weight": "final_norm.weight"}
_PLAIN |= {"lm_head.weight": "lm_head.weight", "embed_tokens.weight": "model.embed_tokens.weight"}
# What published variants do otherwise, each a key of the configuration.
_VARIANTS = ("norm_before_fc", "fc_norm", "norm_output", "parallel_drafting", "use_moe")


class EagleLayer(nn.Module):
    """``layer``, one of transformers, whose attention reads embedding and hidden row; both are ``[1, rows, size]``.

    With ``norm_first`` the normalized hidden row is what the stream goes on with.
    """

    def __init__(self, layer: Any, size: int, norm_first: bool) -> None:
        super().__init__()
        self.self_attn, self.mlp = layer.self_attn, layer.mlp
        self.input_layernorm, self.post_attention_layernorm = layer.input_layernorm, layer.post_attention_layernorm
        self.hidden_norm = copy.deepcopy(layer.input_layernorm)
        self.norm_first = norm_first
        for name in ("q_proj", "k_proj", "v_proj"):
            narrow = getattr(self.self_attn, name)
            wide = nn.Linear(2 * size, narrow.out_features, bias=narrow.bias is not None)
            setattr(self.self_attn, name, wide)

    def forward(self, hidden_states: torch.Tensor, **others: Any) -> torch.Tensor:
        """``hidden_states`` has both side by side, ``[1, rows, 2 * size]``."""
        embedded, hidden = hidden_states.chunk(2, -1)
        normed = self.hidden_norm(hidden)
        read = torch.cat((self.input_layernorm(embedded), normed), -1)
        attended, _ = self.self_attn(hidden_states=read, **others)
        hidden = (normed if self.norm_first else hidden) + attended
        out: torch.Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return out


class EagleHead(DecoderHead):
    """See above; it reads hidden rows that are ``width`` wide."""

    def __init__(self, decoder: Any, width: int) -> None:
        super().__init__(decoder)
        config, size = decoder.config, decoder.config.hidden_size
        self.fc = nn.Linear(width, size, bias=bool(getattr(config, "fc_bias", False)))
        self.final_norm, self.model.norm = self.model.norm, nn.Identity()
        norm_first = bool(getattr(config, "norm_before_residual", False))
        self.model.layers[0] = EagleLayer(self.model.layers[0], size, norm_first)

    def enter(self, features: torch.Tensor) -> torch.Tensor:
        """See ``DecoderHead``."""
        hidden: torch.Tensor = self.fc(features)
        return hidden

    def mix(self, embedded: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """See ``DecoderHead``."""
        return torch.cat((embedded, hidden), -1)

    def leave(self, out: torch.Tensor) -> torch.Tensor:
        """See ``DecoderHead``."""
        normed: torch.Tensor = self.final_norm(out)
        return normed


def read_drafter_config(path: Path) -> Any:
    """``load_config`` for drafters: it knows the configurations of speculators and of stacks of heads as well."""
    file = path if path.is_file() else path / "config.json"
    try:
        fields = parse_json(read_text(file, MOST_JSON))
    except (OSError, UntrustedError, ValueError):
        return load_config(path)
    if isinstance(fields, Mapping) and (stack := stack_config(fields)) is not None:
        return stack
    if not isinstance(fields, Mapping) or _SPECULATORS not in fields:
        return load_config(path)
    from transformers import CONFIG_MAPPING

    layer = fields.get("transformer_layer_config")
    layer = layer if isinstance(layer, Mapping) else {}
    kind = layer.get("model_type")
    if fields[_SPECULATORS] != ARCHITECTURE or kind not in ("llama", "qwen3"):
        raise HeadError(f"{file}: speculators of the kind {fields[_SPECULATORS]!r} over {kind!r} layers are not known")
    others = {key: value for key, value in fields.items() if key != "transformer_layer_config"}
    try:
        return CONFIG_MAPPING[kind](**{**others, **layer, "tie_word_embeddings": False})
    except Exception as error:  # configuration classes raise anything for values that they do not expect
        raise HeadError(f"transformers cannot read the configuration in {file}: {first_line(error)}") from error


def is_eagle3(config: Any) -> bool:
    """Whether a drafter's configuration is that of an EAGLE-3 head."""
    names = getattr(config, "architectures", None) or ()
    return getattr(config, _SPECULATORS, None) == ARCHITECTURE or any("eagle3" in str(name).lower() for name in names)


def eagle3_head(config: Any, target: Any) -> Head:
    """The head of ``config`` for a target of that configuration; HeadError where they do not fit."""
    size, layers = read_size(target, "hidden_size"), read_size(target, "layers")
    for what, own, wanted in (
        ("hidden rows", getattr(config, "target_hidden_size", None) or size, size),
        ("tokens", read_size(config, "vocab_size"), read_size(target, "vocab_size")),
    ):
        if own != wanted:
            raise HeadError(f"the EAGLE-3 head is made for {what} of {own}, and the target has {wanted}; name another")
    if read_size(config, "layers") != 1:
        raise HeadError(f"the EAGLE-3 head has {read_size(config, 'layers')} layers; one is supported")
    if variant := next((name for name in _VARIANTS if getattr(config, name, None)), None):
        raise HeadError(f"the EAGLE-3 head is of the variant {variant}, which is not supported")
    reads = _taps(config, layers)
    width, tokens = len(reads) * size, int(getattr(config, "draft_vocab_size", None) or config.vocab_size)
    config = copy.deepcopy(config)
    config.tie_word_embeddings = False
    return Head(ARCHITECTURE, config, reads, size, lambda decoder: EagleHead(decoder, width), eagle3_name, tokens)


def _taps(config: Any, layers: int) -> tuple[Tap, ...]:
    """The taps that the head reads; HeadError if the target has none of these."""
    nested = getattr(config, "eagle_config", None)
    behind = nested.get(_TAPS) if isinstance(nested, Mapping) else None
    before = getattr(config, _TAPS, None) or (2, layers // 2, layers - 3)
    taps = [tap + 1 if isinstance(tap, int) else tap for tap in behind] if behind else list(before)
    if not taps or not all(type(tap) is int and 0 <= tap <= layers for tap in taps) or len(set(taps)) < len(taps):
        raise HeadError(f"the EAGLE-3 head reads the target after layers {taps} of {layers}; it is of another target")
    return tuple(taps)


def eagle3_name(tensor: str) -> str | None:
    """The parameter of ``EagleHead`` that a tensor of the checkpoint is; None if it is none of its own.

    ``midlayer.mlp.up_proj.weight`` is ``model.layers.0.mlp.up_proj.weight``.
    """
    found = _TENSOR.match(tensor)
    if found is None:
        return None
    return f"model.layers.0.{found[2]}" if found[1] else _PLAIN.get(found[2])
