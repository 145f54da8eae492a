"""Stacks of heads: for each token of a draft a small head of its own, all over one hidden row of the target.

A head is a few residual blocks and an output matrix, which all heads may share. Those of Medusa (Cai et al., arXiv
2401.10774) read the hidden row alone, so that one forward computes them all. Those of Hydra (Ankner et al., arXiv
2402.05109) are *grounded*: head i reads the embeddings of the i + 1 tokens before its own beside it.

A hidden row of the stack's own is the target's, the embeddings of the tokens that followed, and the number of the head
that reads it. Every head computes the rows that are its own alone, so a head that no row asks for costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from export.heads.head import HeadOutput, PredictionHead


@dataclass(frozen=True)
class StackShape:
    """``heads`` of ``layers`` residual blocks each, of which those after the first ``distinct`` are the last of them.

    ``shared``: one output matrix, the target's, for all heads; otherwise each has one, with a bias if ``biased``.
    ``normed``: hidden rows of the target are read after its final norm.
    """

    heads: int
    layers: int
    distinct: int
    shared: bool
    grounded: bool
    biased: bool = False
    normed: bool = True

    def embedded(self, head: int) -> int:
        """Tokens whose embeddings a head reads."""
        return head + 1 if self.grounded else 0

    def own_hidden(self, size: int) -> int:
        """How wide a hidden row of the stack's own is, beside a target with rows of ``size``."""
        return size * (1 + self.embedded(self.heads - 1)) + 1

    @property
    def outputs(self) -> tuple[str, ...]:
        """The parameters with a row for every token."""
        kinds = ("weight", "bias") if self.biased else ("weight",)
        own = [f"outputs.{head}.{kind}" for head in range(self.heads) for kind in kinds]
        return ("lm_head.weight",) if self.shared else tuple(own)


class ResidualBlock(nn.Module):
    """What it reads plus SiLU of a linear layer; with another width the former is a linear layer as well."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, size)
        self.res_connection = nn.Linear(width, size) if width != size else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[1, rows, width]`` to ``[1, rows, size]``."""
        out: torch.Tensor = self.res_connection(x) + functional.silu(self.linear(x))
        return out


class HeadStack(PredictionHead):
    """See above; ``decoder`` gives embedding, final norm and output matrix, its layers are not used."""

    cuts_rows = True

    def __init__(self, decoder: Any, shape: StackShape) -> None:
        super().__init__(decoder)
        size, tokens = self.config.hidden_size, self.config.vocab_size
        self.shape, norm, embedding = shape, decoder.model.norm, decoder.model.embed_tokens
        self.model = nn.Module()
        if shape.grounded:
            self.model.embed_tokens = embedding
        if shape.normed:
            self.target_norm = norm
        self.layers = nn.ModuleList(_blocks(shape, head, size) for head in range(shape.heads))
        if not shape.shared:
            self.outputs = nn.ModuleList(nn.Linear(size, tokens, shape.biased) for _ in range(shape.heads))
            self.lm_head = None
        # Rows whose results are wanted, those between two places, and several parts as one; a trace has other forms.
        self.wanted: Callable[[torch.Tensor], torch.Tensor] = lambda rows: rows
        self.between: Callable[..., torch.Tensor] = lambda rows, first, last: rows[:, int(first) : int(last)]
        self.gathered: Callable[[Sequence[torch.Tensor]], torch.Tensor] = lambda parts: torch.cat(tuple(parts), 1)

    def forward(
        self,
        input_ids: torch.Tensor,
        features: torch.Tensor,
        own_hidden: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        **others: Any,
    ) -> HeadOutput:
        """See ``PredictionHead``; rows of the target are read by the first head. Rows come in the order of heads."""
        size = self.config.hidden_size
        begun = functional.pad(features, (0, self.shape.own_hidden(size) - features.shape[-1]))
        rows = self.wanted(self.join(begun, own_hidden))
        state, head = rows[..., :-1], rows[..., -1:]
        if self.shape.grounded:
            state = state + self._placed(self.model.embed_tokens(self.wanted(input_ids)), head)
        hidden = self.target_norm(state[..., :size]) if self.shape.normed else state[..., :size]
        read = torch.cat((hidden, state[..., size:]), -1)
        before = (head < torch.arange(self.shape.heads + 1)).to(torch.int64).sum(1)[0]
        parts = [blocks(self._rows_of(number, read, before)) for number, blocks in enumerate(self.layers)]
        if self.shape.shared:
            logits = self.lm_head(self.gathered(parts))
        else:
            logits = self.gathered([output(part) for output, part in zip(self.outputs, parts, strict=True)])
        return HeadOutput(logits, torch.cat((state, head + 1), -1))

    def logits_of(self, head: int, tokens: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """The logits of one head for all rows of texts, ``[texts, n - head - 1, vocab]``: those of row i are behind the
        token i + head + 1. ``tokens`` is ``[texts, n]``, ``hidden`` has the target's rows ``[texts, n, size]``.
        """
        count = max(hidden.shape[1] - head - 1, 0)
        read = [self.target_norm(hidden) if self.shape.normed else hidden]
        if self.shape.grounded:
            embedded = self.model.embed_tokens(tokens)
            read += [embedded[:, place + 1 :] for place in range(head + 1)]
        joined = torch.cat([rows[:, :count] for rows in read], -1)
        logits: torch.Tensor = (self.lm_head if self.shape.shared else self.outputs[head])(self.layers[head](joined))
        return logits

    def get_output_embeddings(self) -> nn.Module:
        """See transformers' models: one of its output matrices."""
        return self.lm_head if self.shape.shared else self.outputs[0]

    def _placed(self, embedded: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
        """Embedded tokens ``[1, rows, size]`` at the place that the row's head has for the latest one, else zeros."""
        places = torch.arange(self.shape.heads)
        chosen = (head.to(torch.int64) == places).to(embedded.dtype)
        spread = (chosen[..., None] * embedded[..., None, :]).flatten(-2)
        return functional.pad(spread, (self.config.hidden_size, 0))

    def _rows_of(self, number: int, read: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """What head ``number`` reads; ``before`` has for each head the rows of those before it, int64."""
        width = self.config.hidden_size * (1 + self.shape.embedded(number))
        return self.between(read, before[number : number + 1], before[number + 1 : number + 2])[..., :width]


class _Repeated(nn.Sequential):
    """Its modules in turn, the last one ``times`` times."""

    def __init__(self, modules: Sequence[nn.Module], times: int) -> None:
        super().__init__(*modules)
        self.times = times

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for module in [*self, *[self[-1]] * (self.times - 1)]:
            x = module(x)
        return x


def _blocks(shape: StackShape, head: int, size: int) -> nn.Module:
    widths = [size * (1 + shape.embedded(head)), *[size] * (shape.distinct - 1)]
    return _Repeated([ResidualBlock(width, size) for width in widths], 1 + shape.layers - shape.distinct)
