"""What storing one kind of matrix in a few bits costs: the loss of a model in which only that kind is rounded.

A kind is the last part of a module's name: ``q_proj`` of every layer is one kind, a tied embedding and head another.
Rounding is that of an export. Arithmetic stays float32, so that nothing but the weights' precision is seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from export.distill.corpus import Corpus
from export.distill.measure import text_surprises
from export.perplexity import perplexity_at
from export.quantization.blocks import dequantize
from export.quantization.quantize import QUANTIZERS

BITS = (4, 8)


@dataclass(frozen=True)
class KindLoss:
    """``loss``: by bits, the nats a token that rounding this kind adds; ``margin``: their standard error.

    ``parameters`` is the number of weights of the kind.
    """

    kind: str
    parameters: int
    loss: Mapping[int, float]
    margin: Mapping[int, float]


@dataclass(frozen=True)
class Precision:
    """The float32 model's ``perplexity`` over ``tokens`` tokens, and every kind's loss.

    Those that lose most at 4 bits come first. The last kind is ``all``: every matrix rounded.
    """

    perplexity: float
    tokens: int
    kinds: Sequence[KindLoss]


@torch.inference_mode()
def measure_precision(model: Any, corpus: Corpus, block_size: int, conversations: int) -> Precision:
    """Rounds every kind of matrix of ``model`` in turn; the model is as before afterwards."""
    exact = np.array(text_surprises(model, corpus, conversations=conversations))
    found = []
    kinds = _matrices(model)
    for kind, weights in [*kinds.items(), ("all", [each for some in kinds.values() for each in some])]:
        loss, margin = {}, {}
        for bits in BITS:
            kept = [weight.clone() for weight in weights]
            for weight in weights:
                weight.copy_(_rounded(weight, bits, block_size))
            added = np.array(text_surprises(model, corpus, conversations=conversations)) - exact
            for weight, values in zip(weights, kept, strict=True):
                weight.copy_(values)
            loss[bits], margin[bits] = float(added.mean()), float(added.std() / math.sqrt(len(added)))
        found.append(KindLoss(kind, sum(weight.numel() for weight in weights), loss, margin))
    ordered = sorted(found[:-1], key=lambda one: -one.loss[BITS[0]])
    return Precision(perplexity_at(float(exact.mean())), len(exact), [*ordered, found[-1]])


def markdown(found: Precision) -> Iterator[str]:
    """The lines of a page: what was measured, and one table."""
    yield f"Perplexity {found.perplexity:.3f} over {found.tokens:,} tokens with float32 weights. By kind of matrix: the"
    yield "nats a token that rounding it alone adds, with their standard error."
    total = found.kinds[-1].parameters
    yield from (
        "",
        f"| kind | share of weights | {' | '.join(f'int{bits}' for bits in BITS)} |",
        "| --- | --- | --- | --- |",
    )
    for one in found.kinds:
        losses = " | ".join(f"{one.loss[bits]:+.5f} ± {one.margin[bits]:.5f}" for bits in BITS)
        yield f"| {one.kind} | {one.parameters / total:.2%} | {losses} |"


def _matrices(model: Any) -> dict[str, list[torch.Tensor]]:
    """The weights of products and convolutions by kind; a tied head counts as the embedding."""
    kinds: dict[str, dict[int, torch.Tensor]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding | nn.Conv1d):
            known = {each for some in kinds.values() for each in some}
            if id(module.weight) not in known:
                kinds.setdefault(name.rpartition(".")[2], {})[id(module.weight)] = module.weight
    return {kind: list(weights.values()) for kind, weights in kinds.items()}


def _rounded(weight: torch.Tensor, bits: int, block_size: int) -> torch.Tensor:
    rows = weight.float().flatten(1)
    stored = QUANTIZERS["search"].quantize(rows.numpy(), bits, block_size, True, None)
    values = dequantize(stored.codes, stored.scales, stored.zero_points, bits)[:, : rows.shape[1]]
    return torch.from_numpy(values).reshape(weight.shape)
