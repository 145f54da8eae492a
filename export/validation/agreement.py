"""Measures how often drafters and intermediates choose the target's token: a first guess of their acceptance.

The target answers a few prompts of mixed kinds greedily, and its partners read the same tokens. The text must be the
target's own, because that is what will be drafted; on text that a person wrote the two agree much less often (the
demo's drafter: 48%, and 86% on the demo's own answers).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from export.manifest import PACKED_FILE_NAME, Level
from export.sources.tensor_source import FloatArray
from export.validation.check_text import OPENINGS, PROMPTS
from export.validation.kv_quality import open_kernels, open_model

if TYPE_CHECKING:
    from runtime.models.ort_model import OrtModel

# Tokens of all answers together, and the seconds after which the target stops, shared equally by answers. A slow
# target, or a busy machine, has some tokens of every answer all the same: 96 in all know a share within 0.05 (one
# standard error), 8 within 0.16, and a scheduler that begins with the wrong drafter loses a short answer.
TOKENS = 256
SECONDS = 12.0
LEAST = 96
_CHUNK = 32


@dataclass(frozen=True)
class AnsweredPrompt:
    """A prompt and, from token ``start`` on, the target's answer.

    ``hidden`` has the target's hidden rows of all tokens but the last, if its graph gives any. For a drafter that reads
    them, they begin with its first row, which has the token ``first``.
    """

    tokens: tuple[int, ...]
    start: int
    hidden: FloatArray | None = None
    first: int = 0


def with_agreement(bundle: Path, graph: str, levels: Sequence[Level]) -> tuple[Level, ...]:
    """``levels`` of ``bundle``, target first, with the agreement of its partners.

    Agreement is the share of the tokens of the target's answers that a partner would have chosen as well, each behind
    the target's own tokens. ``graph`` is the graph file in each level's folder. Levels with random weights have none,
    and without a tokenizer there are no prompts. PocketspecError if this machine cannot run a level.
    """
    target, *partners = levels
    known = [level for level in partners if level.source.kind != "random-weights"]
    if not known or target.source.kind == "random-weights" or not (bundle / "tokenizer.json").is_file():
        return tuple(levels)
    positions = min(level.shape.positions for level in (target, *known))
    prompts = [prompt[: positions // 2] for prompt in read_prompts(bundle)]
    room = min(positions, max(map(len, prompts)) + TOKENS // len(prompts) + 1)
    with _opened(bundle / target.folder, graph, target, room) as model:
        texts = list(answer(model, prompts, target.vocabulary.eos_token_ids))
    found = []
    for level in partners:
        if level in known:
            with _opened(bundle / level.folder, graph, level, room) as model:
                level = replace(level, agreement=agreement(model, _texts_for(level, target, texts)))
        found.append(level)
    return (target, *found)


def read_prompts(folder: Path) -> list[list[int]]:
    """The tokens of the prompts: instructions in the chat template of ``folder``, or openings if it has none."""
    from runtime.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.open(folder)
    if tokenizer.template is None:
        return [tokenizer.encode(text) for text in OPENINGS]
    return [tokenizer.encode_chat([{"role": "user", "content": text}]) for text in PROMPTS]


def answer(model: OrtModel, prompts: Sequence[Sequence[int]], eos: Sequence[int]) -> Iterator[AnsweredPrompt]:
    """The greedy answers of ``model``, up to an end token, or as far as tokens, time and its cache allow.

    However long it takes, an answer that does not end by itself has its share of ``LEAST`` tokens.
    """
    share = len(prompts)
    for prompt in prompts:
        tokens, began = list(prompt), perf_counter()
        most = min(len(prompt) + TOKENS // share, model.cache.capacity - 1)
        least = len(prompt) + LEAST // share
        rows: Sequence[int] = prompt
        model.cache.rollback(0)
        while len(tokens) < most:
            tokens.append(_choices(model, rows)[-1])
            rows = tokens[-1:]
            late = len(tokens) >= least and perf_counter() - began > SECONDS / share
            if tokens[-1] in eos or late:
                break
        hidden = model.cache.hidden
        rows_held = None if hidden is None else hidden.rows(0, hidden.end)
        yield AnsweredPrompt(tuple(tokens), len(prompt), rows_held)


def _texts_for(level: Level, target: Level, texts: Iterable[AnsweredPrompt]) -> list[AnsweredPrompt]:
    """``texts`` with those hidden rows alone that ``level`` reads; none if it reads tokens alone."""
    size, found = target.shape.hidden_size, []
    for text in texts:
        hidden, first = None, 0
        if level.reads and text.hidden is not None:
            parts = [text.hidden[:, size * place :][:, :size] for place in map(target.taps.index, level.reads)]
            hidden, first = np.concatenate(parts, 1), level.first_token
            if not first:
                hidden = np.concatenate([np.zeros_like(hidden[:1]), hidden])
        found.append(replace(text, hidden=hidden, first=first))
    return found


def agreement(model: OrtModel, texts: Iterable[AnsweredPrompt]) -> float | None:
    """The share of the tokens of all answers that are ``model``'s first choice; None if there are none."""
    same: list[bool] = []
    for text in texts:
        model.cache.rollback(0)
        # Ids beyond a smaller vocabulary are padding, which no answer has.
        tokens = np.minimum(text.tokens, model.vocab_size - 1).tolist()
        chosen = _choices(model, tokens[text.first : -1], text.hidden)[text.start - 1 - text.first :]
        same += np.equal(chosen, text.tokens[text.start :]).tolist()
    return float(np.mean(same)) if same else None


def _choices(model: OrtModel, tokens: Sequence[int], hidden: FloatArray | None = None) -> list[int]:
    """The most probable token behind each of ``tokens``, which continue those in the cache.

    ``hidden`` begins with the rows that a prediction head reads beside them.
    """
    from runtime.decoding.protocols import HiddenInput

    found: list[int] = []
    for start in range(0, len(tokens), _CHUNK):
        part = tokens[start : start + _CHUNK]
        rows = None if hidden is None else HiddenInput(hidden[start : start + len(part)])
        columns = model.forward(part, hidden=rows).logits.argmax(-1)
        found += (columns if model.logit_tokens is None else model.logit_tokens[columns]).tolist()
    return found


@contextmanager
def _opened(folder: Path, graph: str, level: Level, room: int) -> Iterator[OrtModel]:
    """A context with ``level`` and an fp32 cache of ``room`` rows; packed weights made for it are removed."""
    packed = folder / PACKED_FILE_NAME
    was_there = packed.is_file()
    try:
        kernels, hidden_rows = open_kernels(folder, graph, level), room if level.taps else 0
        yield open_model(kernels, folder, level, "fp32", room, hidden_rows)
    finally:
        if not was_there:
            packed.unlink(missing_ok=True)
