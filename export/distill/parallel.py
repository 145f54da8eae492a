"""PARD: a small model learns to draft several tokens with one forward (arXiv 2504.18583).

A text of n tokens is learned as blocks of rows. Block 0 is the text itself. Row p of block b is the mask token at
position p; it sees the text up to position p - b and the mask rows behind that up to its own, and learns what follows
position p. That is what a plain causal forward over the text and b masks sees, so drafting needs no mask of attention.

Conditional drop (COD) keeps fewer rows of later blocks: those of block b are drawn from the successors of the rows kept
in block b - 1, so every kept row has all masks before it. All windows of a step share one draw.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from export.distill.devices import tensors_for
from export.distill.lessons import Lessons
from export.distill.running_agreement import RunningAgreement
from export.manifest import PocketspecError

# Share of the rows of a block that the next one keeps, and the least share of the text's: PARD's own.
_KEEP, _KEEP_LEAST = 0.7, 0.2


def mask_token(tokenizer: Any, logits: int) -> int:
    """A token that no text has, of a model with so many ``logits``; PocketspecError if there is none.

    It is the tokenizer's padding token; else the first beyond its entries, as PARD's own checkpoints for Qwen have it;
    else its token for what it does not know.
    """
    pad, unknown, entries = tokenizer.pad_token_id, getattr(tokenizer, "unk_token_id", None), len(tokenizer)
    if pad is not None and pad != tokenizer.eos_token_id:
        return int(pad)
    if entries < logits:
        return entries
    if unknown is not None and unknown not in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        return int(unknown)
    raise PocketspecError("the tokenizer has no padding token of its own to stand for unknown tokens; give it one")


@dataclass(frozen=True)
class MaskedRows:
    """Rows of one forward: ``blocks``, how many masks a row's token lies behind the text, and ``places`` in the text.

    Both are int64 ``[rows]``. The rows of block 0 come first: all of the text.
    """

    blocks: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]

    def shares(self, right: npt.NDArray[np.float32], depth: int) -> npt.NDArray[np.float64]:
        """The mean of ``right`` by block, of ``depth`` blocks; ``right`` has a share for every row."""
        counts = np.bincount(self.blocks, minlength=depth)
        return np.asarray(np.bincount(self.blocks, right, depth) / np.maximum(counts, 1))

    def visible(self) -> npt.NDArray[np.bool_]:
        """Which row (first axis) sees which (second), bool ``[rows, rows]``."""
        behind = self.places[:, None] - self.places[None, :]
        text = (self.blocks[None, :] == 0) & (behind >= self.blocks[:, None])
        # The mask that stands ``behind`` places before a row lies as much nearer to the same end of the text.
        masks = (self.blocks[None, :] > 0) & (behind >= 0) & (self.blocks[:, None] - behind == self.blocks[None, :])
        return np.asarray(text | masks)

    def logits(self, model: Any, tokens: torch.Tensor, mask: int) -> torch.Tensor:
        """``[texts, rows, vocab]`` of ``model``, where ``tokens`` ``[texts, rows]`` are those at the rows' places."""
        blocks, places, seen = tensors_for(model, self.blocks, self.places, self.visible())
        fed, texts = torch.where(blocks > 0, mask, tokens), len(tokens)
        positions, seen = places[None].expand(texts, -1), seen[None, None].expand(texts, 1, -1, -1)
        out = model(input_ids=fed, position_ids=positions, attention_mask=seen, use_cache=False)
        return out.logits


def draw_rows(
    rng: np.random.Generator, length: int, depth: int, keep: float = _KEEP, least: float = _KEEP_LEAST
) -> MaskedRows:
    """The rows from which a text of ``length`` tokens teaches ``depth`` drafts; their number is always the same.

    A block keeps the share ``keep`` of the one before, and at least ``least`` of the text.
    """
    kept = np.arange(length)
    blocks, places = [np.zeros(length, np.int64)], [kept]
    for block in range(1, depth):
        after = kept[kept < length - 1] + 1
        count = min(round(length * max(keep**block, least)), len(kept) - 1)
        if count < 1:
            break
        kept = np.sort(rng.choice(after, count, replace=False))
        blocks.append(np.full(count, block))
        places.append(kept)
    return MaskedRows(np.concatenate(blocks), np.concatenate(places))


@dataclass
class ParallelObjective:
    """A teacher's distributions, for ``depth`` drafts from one forward with the token ``mask`` for what is not known.

    ``agreement`` has running means, by position in the draft: how often the first choice is the teacher's.
    """

    lessons: Lessons
    mask: int
    depth: int
    agreement: RunningAgreement = field(init=False)

    def __post_init__(self) -> None:
        self.agreement = RunningAgreement(self.depth)

    def loss(self, model: Any, rng: np.random.Generator, rows: int, length: int) -> torch.Tensor:
        """Cross entropy with the teacher's distributions, over all rows that were kept."""
        drawn = draw_rows(rng, length, self.depth)
        windows = (part[:, drawn.places] for part in self.lessons.windows(rng, rows, length))
        tokens, ids, probs = tensors_for(model, *windows)
        given = functional.log_softmax(drawn.logits(model, tokens, self.mask).float(), -1)
        self.agreement.note(drawn.shares((given.argmax(-1) == ids[..., 0]).float().mean(0).cpu().numpy(), self.depth))
        return -(given.gather(-1, ids) * probs).sum(-1).mean()
