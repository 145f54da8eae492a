"""Distributions, draws and texts from logits that are the same everywhere: what golden_draws.json keeps.

After a change of the arithmetic of sampling, ``python -m tests.runtime.decoding.golden_draws`` makes the file again.
Texts with the same seed are others then, which is worth a line in the changelog.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from runtime.decoding.acceptance.block import BlockVerifier
from runtime.decoding.acceptance.recursive import RecursiveVerifier
from runtime.decoding.acceptance.sample_and_match import MatchVerifier
from runtime.decoding.context import Context
from runtime.decoding.draft import DraftLimit
from runtime.decoding.loop import decode
from runtime.decoding.sampling import RandomStream, SamplingParams, draw, probabilities, uniform
from runtime.decoding.stop import Cut
from runtime.drafters.draft_model import DraftModelDrafter
from runtime.drafters.suffix import SuffixDrafter
from runtime.kernels.selftest.numbers import Numbers
from runtime.scheduler.fixed import FixedScheduler
from tests.runtime.table_model import TableModel

FILE = Path(__file__).with_name("golden_draws.json")
SEED, VOCAB, LENGTH = 20261129, 11, 40
SETTINGS = {
    "as the model says": SamplingParams(1.0, seed=SEED),
    "cooler": SamplingParams(0.7, seed=SEED),
    "hot": SamplingParams(3.0, seed=SEED),
    "filtered": SamplingParams(0.8, top_k=40, top_p=0.9, min_p=0.02, repetition_penalty=1.1, seed=SEED),
    "top_p": SamplingParams(0.9, top_p=0.95, seed=SEED),
}
RULES: dict[str, tuple[Callable[[], Any], Callable[[], Any] | None]] = {
    "plain": (MatchVerifier, None),
    "suffix": (MatchVerifier, SuffixDrafter),
    "block": (BlockVerifier, lambda: DraftModelDrafter(_model(2), VOCAB, drawn=True)),
    "recursive": (RecursiveVerifier, lambda: DraftModelDrafter(_model(2), VOCAB, drawn=True)),
}


class _Length:
    """Stops after so many tokens."""

    def cut(self, generated: Any, fresh: int) -> Cut:
        left = LENGTH - (len(generated) - fresh)
        return Cut(left, "length") if left <= fresh else Cut(fresh)


def logits_of(seed: int, vocab: int) -> Any:
    """Logits with a few that stand out, and one that is excluded."""
    numbers = Numbers(seed, vocab)
    row = numbers.bell((vocab,)) * np.float32(2) + numbers.uniform(0, 1, (vocab,)) * np.float32(3)
    row[vocab // 3] = -np.inf
    return row


def golden() -> dict[str, Any]:
    """Everything that the file keeps."""
    found: dict[str, Any] = {}
    for vocab in (17, 5000, 151_936):
        for name, params in SETTINGS.items():
            found[f"{name}, {vocab} tokens"] = list(_draws(vocab, params))
    found |= {f"text, {rule}": _text(rule) for rule in RULES}
    return found


def _draws(vocab: int, params: SamplingParams) -> Iterator[Any]:
    """Draws of several positions, then a digest of the last distribution."""
    probs = np.zeros(1, np.float32)
    for position in range(6):
        probs = probabilities(logits_of(position, vocab), [3, 1, 4, 1, 5], params)
        for stream in (RandomStream.TARGET, RandomStream.DRAFTER):
            yield draw(probs, uniform(params.seed, position, stream))
    yield hashlib.sha256(probs.tobytes()).hexdigest()


def _model(seed: int) -> TableModel:
    """Two of different seeds agree now and then."""
    model = TableModel(VOCAB, capacity=96)
    table = Numbers(1).bell((3, VOCAB, VOCAB, VOCAB)) + Numbers(seed).bell((3, VOCAB, VOCAB, VOCAB))
    model._table = table
    return model


def _text(rule: str) -> list[int]:
    verifier, drafter = RULES[rule]
    context = Context(80, SETTINGS["cooler"])
    context.append([3, 1, 4, 1, 5])
    drafters = {"guess": drafter()} if drafter else {}
    scheduler = FixedScheduler("guess", DraftLimit(4, 4)) if drafter else FixedScheduler()
    steps = decode(_model(1), context, drafters, scheduler, verifier(), _Length())
    return [int(token) for step in steps for token in step.tokens]


if __name__ == "__main__":
    FILE.write_text(json.dumps(golden()).replace("], ", "],\n") + "\n", encoding="utf-8")
