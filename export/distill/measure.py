"""How good a trained model is: perplexity on text, and how often a drafter says what its target says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from export.distill.corpus import Corpus


@torch.inference_mode()
def perplexity(model: Any, corpus: Corpus, longest: int = 1024, conversations: int = 40) -> float:
    """Perplexity per token over the first ``conversations`` of a corpus, each from its beginning."""
    total, count = 0.0, 0
    ends = [*corpus.starts[1:], len(corpus.tokens)]
    for begin, end in list(zip(corpus.starts, ends, strict=True))[:conversations]:
        row = torch.from_numpy(corpus.tokens[begin : min(end, begin + longest)].astype(np.int64))[None]
        logits = model(input_ids=row[:, :-1], use_cache=False).logits[0].float()
        total += functional.cross_entropy(logits, row[0, 1:], reduction="sum").item()
        count += row.shape[1] - 1
    return math.exp(total / count)


@torch.inference_mode()
def answer(model: Any, prompt: Sequence[int], longest: int) -> list[int]:
    """The greedy answer of ``model``, without the prompt, up to its end token."""
    row = torch.tensor([list(prompt)])
    out = model.generate(row, max_new_tokens=longest, do_sample=False, attention_mask=torch.ones_like(row))
    return [int(token) for token in out[0, len(prompt) :]]


@torch.inference_mode()
def agreement(drafter: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> float:
    """Share of the target's greedy ``answers`` whose every token the drafter would have chosen too."""
    same = count = 0
    for prompt, reply in zip(prompts, answers, strict=True):
        row = torch.tensor([[*prompt, *reply]])
        chosen: npt.NDArray[np.int64] = drafter(input_ids=row[:, :-1], use_cache=False).logits[0].argmax(-1).numpy()
        same += int((chosen[len(prompt) - 1 :] == np.array(reply)).sum())
        count += len(reply)
    return same / count
