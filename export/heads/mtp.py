"""The prediction head that Qwen3-Next and Qwen3.5 come with, in tensors called ``mtp.*``, which transformers drops.

Embedding and the target's last hidden row, after its final norm, are normalized each, put side by side and multiplied
down to one row; one attention layer of the target's kind and a norm follow. The result is what the target's own head
reads, and the hidden row that the head goes on with. So does vLLM (``qwen3_5_mtp.py``), for which Qwen wrote it.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
from torch import nn

from export.heads.head import DecoderHead, Head, HeadError
from export.sources.config_names import read_size

_FAMILIES = ("qwen3_5_text", "qwen3_next")
_COUNT = "mtp_num_hidden_layers"
_TENSOR = re.compile(r"^(?:model\.|language_model\.)*mtp\.(.+)$")


class MtpHead(DecoderHead):
    """See above; ``target_norm`` is the final norm of the target, whose rows are read in front of it."""

    def __init__(self, decoder: Any) -> None:
        super().__init__(decoder)
        size = decoder.config.hidden_size
        self.fc = nn.Linear(2 * size, size, bias=False)
        for name in ("target_norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"):
            self.add_module(name, copy.deepcopy(decoder.model.norm))

    def enter(self, features: torch.Tensor) -> torch.Tensor:
        """See ``DecoderHead``."""
        normed: torch.Tensor = self.target_norm(features)
        return normed

    def mix(self, embedded: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """See ``DecoderHead``."""
        mixed: torch.Tensor = self.fc(
            torch.cat((self.pre_fc_norm_embedding(embedded), self.pre_fc_norm_hidden(hidden)), -1)
        )
        return mixed


def mtp_head(config: Any) -> Head:
    """The head of a target of ``config``; HeadError if such a target has none that is known."""
    kind, layers = config.model_type, getattr(config, _COUNT, None)
    if kind.startswith("gemma4"):
        raise HeadError(
            f"own: the assistant of {kind} reads the KV cache of its target, which is not supported; name a drafter"
        )
    if kind not in _FAMILIES:
        if layers or getattr(config, "num_nextn_predict_layers", None):
            raise HeadError(f"own: prediction heads of {kind} are not known, those of {', '.join(_FAMILIES)} are")
        raise HeadError(f"own: {kind} comes with no prediction head of its own; name a drafter, or none")
    if layers not in (None, 1):
        raise HeadError(f"own: {kind} has prediction heads of {layers} layers; one layer is supported")
    if getattr(config, "mtp_use_dedicated_embeddings", False):
        raise HeadError(f"own: the prediction head of {kind} has an embedding of its own, which is not supported")
    small = copy.deepcopy(config)
    small.num_hidden_layers, small.layer_types = 1, ["full_attention"]
    last = read_size(config, "layers")
    return Head(f"{kind.removesuffix('_text')}_mtp", small, (last,), config.hidden_size, MtpHead, mtp_name)


def mtp_name(tensor: str) -> str | None:
    """The parameter of ``MtpHead`` that a tensor of the checkpoint is; None if it is none of its own.

    ``mtp.layers.0.mlp.up_proj.weight`` is ``model.layers.0.mlp.up_proj.weight``.
    """
    found = _TENSOR.match(tensor)
    if found is None:
        return None
    name = found[1]
    return f"model.{name}" if name.startswith(("layers.", "norm.")) else name
