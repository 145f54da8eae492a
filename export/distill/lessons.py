"""Lessons: streams of tokens with the teacher's distribution behind each, made once and used many times.

There are two kinds of text: real text that the teacher reads, and answers that it writes, because a drafter must guess
the teacher's own text. Only the most probable entries of a distribution are kept; they have nearly all of its mass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from export.distill.checkpoints import save_arrays
from export.distill.corpus import Corpus, IdStream, token_ids
from export.distill.devices import tensors_for

if TYPE_CHECKING:
    from runtime import Engine

TOP = 16
_STRETCH = 16  # number of batches whose prompts are sorted by length together


@dataclass(frozen=True)
class Lessons:
    """A corpus and, for every token of it, the teacher's most probable next tokens.

    ``ids`` is ``[n, TOP]``, ``probs`` float16 ``[n, TOP]``, renormalized over those entries.
    """

    corpus: Corpus
    ids: IdStream
    probs: npt.NDArray[np.float16]

    def windows(
        self, rng: np.random.Generator, rows: int, length: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Inputs, int64 ``[rows, length]``, and targets: ids, int64, and probs, float32, ``[rows, length, TOP]``."""
        index = self.corpus.window_index(rng, rows, length)[:, :-1]
        tokens = self.corpus.tokens[index].astype(np.int64)
        return tokens, self.ids[index].astype(np.int64), self.probs[index].astype(np.float32)


def save_lessons(lessons: Lessons, path: Path) -> None:
    """Writes the lessons as ``.npz``, whole or not at all; FullDiskError if there is no room."""
    save_arrays(path, tokens=lessons.corpus.tokens, starts=lessons.corpus.starts, ids=lessons.ids, probs=lessons.probs)


def load_lessons(path: Path) -> Lessons:
    """Reads what ``save_lessons`` wrote."""
    with np.load(path) as data:
        return Lessons(Corpus(data["tokens"], data["starts"]), data["ids"], data["probs"])


def join(parts: Sequence[Lessons]) -> Lessons:
    """Several lessons as one."""
    offsets = np.cumsum([0, *(len(part.corpus.tokens) for part in parts[:-1])])
    starts = [part.corpus.starts + offset for part, offset in zip(parts, offsets, strict=True)]
    corpus = Corpus(np.concatenate([part.corpus.tokens for part in parts]), np.concatenate(starts))
    return Lessons(corpus, np.concatenate([p.ids for p in parts]), np.concatenate([p.probs for p in parts]))


@torch.inference_mode()
def read_text(
    teacher: Any, corpus: Corpus, tokens: int, length: int = 512, report: Callable[[int], None] = lambda done: None
) -> Lessons:
    """The teacher's distributions on about ``tokens`` tokens of real text, conversation by conversation."""
    parts: list[Lessons] = []
    done = 0
    for begin, end in zip(corpus.starts, [*corpus.starts[1:], len(corpus.tokens)], strict=True):
        row = corpus.tokens[begin : min(end, begin + 2 * length)]
        (fed,) = tensors_for(teacher, row.astype(np.int64)[None])
        logits = teacher(input_ids=fed, use_cache=False).logits[0]
        parts.append(Lessons(Corpus(row, np.zeros(1, np.int64)), *_top(logits)))
        done += len(row)
        report(done)
        if done >= tokens:
            break
    return join(parts)


def run_answers(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    temperature: float,
    longest: int = 600,
    report: Callable[[int], None] = lambda done: None,
) -> Corpus:
    """About ``tokens`` tokens of prompts and answers by an exported target, for ``read_text``.

    The text is that of the weights that will run, and is written several times faster than by torch.
    """
    from runtime import SamplingParams

    rows: list[list[int]] = []
    done = 0
    for number, prompt in enumerate(prompts):
        sampling = SamplingParams(temperature=temperature, seed=number)
        chunks = engine.generate(list(prompt), sampling=sampling, max_new_tokens=longest)
        rows.append([*prompt, *(token for chunk in chunks for token in chunk.step.tokens)])
        done += len(rows[-1])
        report(done)
        if done >= tokens:
            break
    starts = np.cumsum([0, *(len(row) for row in rows[:-1])]).astype(np.int64)
    return Corpus(np.concatenate([token_ids(row) for row in rows]), starts)


@torch.inference_mode()
def write_answers(
    teacher: Any,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    temperature: float,
    longest: int = 600,
    rows: int = 64,
    report: Callable[[int], None] = lambda done: None,
) -> Lessons:
    """About ``tokens`` tokens of prompts and answers by the teacher (temperature 0: greedy), with its distributions.

    ``rows`` prompts of about one length are answered together, the shorter ones padded at the left.
    """
    parts: list[Lessons] = []
    done = 0
    for batch in _batches(prompts, rows):
        parts += _answer(teacher, batch, temperature, longest)
        done = sum(len(part.corpus.tokens) for part in parts)
        report(done)
        if done >= tokens:
            break
    return join(parts)


def _batches(prompts: Sequence[Sequence[int]], rows: int) -> Iterator[list[Sequence[int]]]:
    """Batches of prompts of about one length, shuffled within stretches, so that short prompts do not come first."""
    rng = np.random.default_rng(0)
    for first in range(0, len(prompts), _STRETCH * rows):
        stretch = sorted(prompts[first : first + _STRETCH * rows], key=len)
        yield from (stretch[begin : begin + rows] for begin in rng.permutation(range(0, len(stretch), rows)))


def _answer(teacher: Any, prompts: list[Sequence[int]], temperature: float, longest: int) -> list[Lessons]:
    pads = torch.tensor([max(map(len, prompts)) - len(prompt) for prompt in prompts])[:, None]
    fed = torch.tensor([[0] * int(pad) + list(prompt) for pad, prompt in zip(pads, prompts, strict=True)])
    tokens, ids, probs = [fed], [], []
    finished = torch.zeros(len(prompts), dtype=torch.bool)
    cache, columns = None, torch.arange(fed.shape[1])
    for _ in range(longest):
        positions = (columns[-fed.shape[1] :] - pads).clamp(min=0)
        mask = (columns >= pads).long()
        out = teacher(input_ids=fed, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
        cache, columns = out.past_key_values, torch.arange(len(columns) + 1)
        top_ids, top_probs = zip(*(_top(row) for row in out.logits), strict=True)
        ids.append(np.stack(top_ids))
        probs.append(np.stack(top_probs))
        last = out.logits[:, -1]
        fed = last.argmax(-1)[:, None] if temperature == 0 else torch.multinomial((last / temperature).softmax(-1), 1)
        tokens.append(fed)
        finished |= fed[:, 0] == teacher.config.eos_token_id
        if finished.all():
            break
    text, all_ids, all_probs = torch.cat(tokens, 1).numpy()[:, :-1], np.concatenate(ids, 1), np.concatenate(probs, 1)
    return [
        _cut(text[row, pad:], all_ids[row, pad:], all_probs[row, pad:], len(prompt), teacher.config.eos_token_id)
        for row, (pad, prompt) in enumerate(zip(pads[:, 0].tolist(), prompts, strict=True))
    ]


def _cut(
    tokens: npt.NDArray[np.int64],
    ids: IdStream,
    probs: npt.NDArray[np.float16],
    prompt: int,
    end_token: int,
) -> Lessons:
    """The lesson of one row: its prompt and its answer, the end token included."""
    ends = np.nonzero(tokens[prompt:] == end_token)[0]
    end = prompt + int(ends[0]) + 1 if len(ends) else len(tokens)
    return Lessons(Corpus(token_ids(tokens[:end]), np.zeros(1, np.int64)), ids[:end], probs[:end])


def _top(logits: torch.Tensor) -> tuple[IdStream, npt.NDArray[np.float16]]:
    values, indices = logits.float().topk(TOP, -1)
    return token_ids(indices.cpu().numpy()), values.softmax(-1).cpu().numpy().astype(np.float16)
