"""What all prediction heads have in common: a decoder of one layer that reads hidden rows of the target.

Row i of a head has the token at position i + 1 and the target's hidden rows at position i, and its logits are those of
the token at position i + 2. Where the target has not been, a head goes on with its own hidden row of the position
before. Published by DeepSeek-V3 (arXiv 2412.19437, section 2.2) and EAGLE (arXiv 2401.15077, 2503.01840).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from export.manifest import PocketspecError, Tap

OUTPUT = "lm_head.weight"


class HeadError(PocketspecError, ValueError):
    """A checkpoint without the prediction head that was asked for, or with one that does not fit its target."""


@dataclass
class HeadOutput:
    """``logits`` ``[1, rows, vocab]``, and the head's own ``hidden`` rows ``[1, rows, hidden]``."""

    logits: torch.Tensor
    hidden: torch.Tensor


def _joined(features: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    return torch.cat((features, own), 1)


class PredictionHead(nn.Module, ABC):
    """What reads hidden rows of the target beside tokens, made of ``decoder``, a causal language model of transformers.

    It keeps the decoder's parts under their own names: ``model`` and ``lm_head``. ``cuts_rows``: it computes nothing
    but rows that are ``wanted`` by itself.
    """

    cuts_rows = False

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.config = decoder.config
        self.model, self.lm_head = decoder.model, decoder.lm_head
        # Puts rows of the target before the head's own; a trace has another form of it.
        self.join: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = _joined

    @abstractmethod
    def forward(
        self,
        input_ids: torch.Tensor,
        features: torch.Tensor,
        own_hidden: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        **others: Any,
    ) -> HeadOutput:
        """The first rows of ``input_ids`` ``[1, rows]`` have hidden rows of the target, the others the head's own.

        ``features`` is float32 ``[1, n, width]``, ``own_hidden`` ``[1, rows - n, hidden]``.
        """

    def get_input_embeddings(self) -> nn.Module | None:
        """See transformers' models; None if it reads no tokens."""
        embedding: nn.Module | None = getattr(self.model, "embed_tokens", None)
        return embedding

    def get_output_embeddings(self) -> nn.Module:
        """See transformers' models."""
        return self.lm_head


class DecoderHead(PredictionHead):
    """A head built around a decoder, usually of one layer: embedding, layers, final norm and output matrix are its."""

    def forward(
        self,
        input_ids: torch.Tensor,
        features: torch.Tensor,
        own_hidden: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        **others: Any,
    ) -> HeadOutput:
        """See ``PredictionHead``."""
        hidden = self.join(self.enter(features), own_hidden)
        rows = self.mix(self.model.embed_tokens(input_ids), hidden)
        out = self.model(inputs_embeds=rows, position_ids=position_ids, **others).last_hidden_state
        return HeadOutput(self.lm_head(self.leave(out)), out)

    @abstractmethod
    def enter(self, features: torch.Tensor) -> torch.Tensor:
        """Rows of the target, ``[1, n, width]``, in the form of the head's own hidden rows."""

    @abstractmethod
    def mix(self, embedded: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """What the layer reads, of embedded tokens and hidden rows, both ``[1, rows, hidden]``."""

    def leave(self, out: torch.Tensor) -> torch.Tensor:
        """What ``lm_head`` reads, of the head's own hidden rows."""
        return out


@dataclass(frozen=True)
class Head:
    """A prediction head before its weights are read.

    ``config`` is that of its decoder of one layer, ``reads`` the target's taps, each ``target_hidden`` wide. ``make``
    builds the module around that decoder, and ``own_name`` gives the parameter that a tensor of the checkpoint is. Its
    output matrix is the target's, or one of its own for ``tokens`` tokens; ``outputs`` are the names of those that it
    has. Its own hidden rows are as wide as the decoder's, or ``own_hidden``. Without ``has_layers`` those of
    the decoder are not used.
    ``small``: what it is enlarged from. With ``own_tokens`` it is a whole model, with embedding and output matrix of
    its own.

    ``stack``: how many tokens a stack of heads drafts, and ``together``: with one forward. ``fit`` gives the head that
    a checkpoint with tensors of these names has, where a configuration does not say all.
    """

    architecture: str
    config: Any
    reads: tuple[Tap, ...]
    target_hidden: int
    make: Callable[[Any], PredictionHead]
    own_name: Callable[[str], str | None]
    tokens: int | None = None
    small: Head | None = None
    own_tokens: bool = False
    outputs: tuple[str, ...] = (OUTPUT,)
    own_hidden: int | None = None
    has_layers: bool = True
    stack: int | None = None
    together: bool = False
    fit: Callable[[Collection[str]], Head] | None = None

    @property
    def own_width(self) -> int:
        """Numbers of a hidden row of its own."""
        return int(self.own_hidden or self.config.hidden_size)

    @property
    def width(self) -> int:
        """Numbers of a row of features: all taps side by side."""
        return len(self.reads) * self.target_hidden

    def build(self, attention: str) -> PredictionHead:
        """The torch module, whose attention is the one that transformers knows by that name."""
        from transformers import AutoModelForCausalLM

        decoder = AutoModelForCausalLM.from_config(self.config, dtype=torch.float32, attn_implementation=attention)
        head = self.make(decoder)
        for name in self.outputs if self.tokens is not None else ():
            path, _, kind = name.rpartition(".")
            if kind == "weight":
                biased = f"{path}.bias" in self.outputs
                head.set_submodule(path, nn.Linear(decoder.config.hidden_size, self.tokens or 0, bias=biased))
        return head


def parameter_shapes(head: Head) -> Mapping[str, tuple[int, ...]]:
    """Name and shape of every parameter of the module; a tied head once, as the embedding."""
    with torch.device("meta"):
        module: Any = head.build("eager")
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
