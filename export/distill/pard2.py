"""PARD-2: drafting in parallel with hidden rows of the quantized target beside the tokens (arXiv 2605.08632).

Rows are those of PARD (``parallel``). A row of block b at position p is read with the target's hidden rows at position
p - b - 1, the newest that are known where its draft begins; at the beginning of a text they are zeros. Some texts have
none at all, so that the same model also drafts by itself.

A row is only worth as much as the chance that its draft gets that far: the product of the target's probabilities of
the tokens that its masks stand for (confidence-adaptive token weights).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from export.distill.devices import tensors_for
from export.distill.lessons import Lessons
from export.distill.parallel import MaskedRows, draw_rows
from export.distill.running_agreement import RunningAgreement
from export.graph.taps import tapped
from export.heads.pard2 import SCALE_KEY, WIDTH_KEY, Pard2Model, pard2_head
from export.manifest import Tap
from export.sources.parallel_drafts import LAYERS_KEY, LONGEST_KEY, MASK_KEY, PROJECTION_FILE

# PARD-2's own: the share of the rows of a block that the next one keeps, and the least; the share of texts without
# hidden rows (0.1 to 0.2); the weight of the tokens themselves beside the target's distributions; the scale.
_KEEP, _KEEP_LEAST, _WITHOUT, _TOKENS, _SCALE = 0.7, 0.1, 0.15, 0.1, 0.02
_STATES = (-1, -8, -16, -24)


class Pard2Student(nn.Module):
    """``decoder`` in training, with a projection of hidden rows of ``target``; drafts of ``depth`` tokens.

    It reads the last hidden state and every eighth before it, of a shallow target every quarter.
    """

    def __init__(self, decoder: Any, target: Any, mask: int, depth: int) -> None:
        super().__init__()
        layers = target.config.num_hidden_layers
        states = _STATES if layers >= -_STATES[-1] else sorted({-1 - part * layers // 4 for part in range(4)})[::-1]
        self.config = decoder.config
        width = len(states) * target.config.hidden_size
        self.config.update(
            {MASK_KEY: mask, LONGEST_KEY: depth, LAYERS_KEY: list(states), SCALE_KEY: _SCALE, WIDTH_KEY: width}
        )
        head = pard2_head(self.config, target.config)
        self.reads: tuple[Tap, ...] = head.reads
        self.width = head.width
        self._decoder, self.model = [decoder], head.make(decoder)  # in a list: its parameters are the model's
        assert isinstance(self.model, Pard2Model)
        if any(tap == layers for tap in self.reads):
            self.model.target_norm.load_state_dict(target.model.norm.state_dict())
            self.model.target_norm.requires_grad_(False)

    def forward(self, fed: torch.Tensor, features: torch.Tensor, **others: Any) -> torch.Tensor:
        """The logits of rows with the tokens ``fed`` and the hidden rows ``features``."""
        out = self.model(fed, features, features[:, :0, : self.config.hidden_size], **others)
        logits: torch.Tensor = out.logits
        return logits

    def save_pretrained(self, folder: Path) -> None:
        """Writes an ordinary checkpoint, which drafts by itself, and the projection beside it."""
        (decoder,) = self._decoder
        decoder.save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps(decoder.config.to_dict(), indent=2) + "\n")
        projection = {"target_proj.weight": self.model.target_proj.weight.detach().contiguous()}
        save_file(projection, folder / PROJECTION_FILE, metadata={"format": "pt"})


@dataclass
class Pard2Objective:
    """The distributions of ``target``, which is quantized, for ``depth`` drafts from one forward with ``mask`` tokens.

    ``agreement``: see ``ParallelObjective``.
    """

    lessons: Lessons
    target: Any
    mask: int
    depth: int
    agreement: RunningAgreement = field(init=False)

    def __post_init__(self) -> None:
        self.agreement = RunningAgreement(self.depth)

    def loss(self, model: Pard2Student, rng: np.random.Generator, rows: int, length: int) -> torch.Tensor:
        """Cross entropy with the target's distributions and with the tokens, weighted by how far drafts get."""
        drawn = draw_rows(rng, length, self.depth, _KEEP, _KEEP_LEAST)
        windows = self.lessons.windows(rng, rows, length)
        weights = survival(drawn, *windows)
        with_rows = rng.random((rows, 1, 1)) >= _WITHOUT
        tokens, ids, probs, weight, kept = tensors_for(model, *windows, weights, with_rows)
        given = functional.log_softmax(self.logits(model, drawn, tokens, self.features(model, tokens) * kept), -1)
        ids, probs = ids[:, drawn.places], probs[:, drawn.places]
        self.agreement.note(drawn.shares((given.argmax(-1) == ids[..., 0]).float().mean(0).cpu().numpy(), self.depth))
        loss = -(given.gather(-1, ids) * probs).sum(-1)
        following = functional.pad(tokens, (0, 1), value=-1)[:, drawn.places + 1]
        chances = given.gather(-1, following.clamp(min=0)[..., None])[..., 0]
        loss = loss - _TOKENS * chances * (following >= 0)
        return (loss * weight).sum() / weight.sum()

    def logits(
        self, model: Pard2Student, drawn: MaskedRows, tokens: torch.Tensor, features: torch.Tensor
    ) -> torch.Tensor:
        """``[texts, rows, vocab]``, of texts ``tokens`` with the hidden rows ``features`` ``[texts, n, width]``.

        A row reads those at its place, less its block, less one.
        """
        blocks, places, seen = tensors_for(model, drawn.blocks, drawn.places, drawn.visible())
        fed, texts = torch.where(blocks > 0, self.mask, tokens[:, drawn.places]), len(tokens)
        positions, seen = places[None].expand(texts, -1), seen[None, None].expand(texts, 1, -1, -1)
        before = functional.pad(features, (0, 0, 1, 0))[:, drawn.places - drawn.blocks]
        return model(fed, before, position_ids=positions, attention_mask=seen, use_cache=False).float()

    def features(self, model: Pard2Student, tokens: torch.Tensor) -> torch.Tensor:
        """The hidden rows of the target that the drafter reads, ``[texts, n, width]``."""
        with torch.no_grad(), tapped(self.target, model.reads) as found:
            self.target(input_ids=tokens, use_cache=False)
        return torch.cat([found[tap] for tap in model.reads], -1).float()


def survival(
    drawn: MaskedRows,
    tokens: npt.NDArray[np.int64],
    ids: npt.NDArray[np.int64],
    probs: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """The chance that a draft gets as far as each row, float32 ``[texts, rows]``; 1 for those of the text.

    A row of block b at position p stands behind masks for the tokens at positions p - b + 1 to p.
    """
    own = np.ones(tokens.shape, np.float32)  # the target's probability of each token, behind the ones before it
    own[:, 1:] = ((ids[:, :-1] == tokens[:, 1:, None]) * probs[:, :-1]).sum(-1)
    weights = np.ones((len(tokens), len(drawn.places)), np.float32)
    for back in range(int(drawn.blocks.max(initial=0))):
        inside = drawn.blocks > back
        weights[:, inside] *= own[:, drawn.places[inside] - back]
    return weights
