"""Answers of table models: what ``table_steps.json`` keeps, and ``decoding/TableStepsTest.kt`` repeats.

``python -m tests.android_demo.table_steps`` makes the file again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from runtime.decoding.draft import DraftLimit, Pick, chain_limit, tree_limit
from runtime.decoding.sampling import SamplingParams
from runtime.kernels.selftest.numbers import Numbers
from tests.android_demo.golden_steps import GoldenDecoder, Question
from tests.places import ROOT
from tests.runtime.table_model import TableModel

FILE = ROOT / "android_demo/engine/src/test/resources/decoding/table_steps.json"
CAPACITY, VOCAB, LARGEST_VOCAB, MAX_ROWS, LENGTH, SEED = 96, 11, 16, 20, 30, 20261129
PROMPT = (3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5)
SAMPLINGS = {
    "greedy": SamplingParams(),
    "seeded": SamplingParams(0.8, seed=SEED),
    "filtered": SamplingParams(0.9, top_k=8, top_p=0.95, min_p=0.02, repetition_penalty=1.2, seed=2**64 - 3),
    "penalized": SamplingParams(repetition_penalty=1.3),
}
PICKS = (
    Pick(None),
    Pick("suffix", chain_limit(7)),
    Pick("suffix", tree_limit(7)),
    Pick("suffix", DraftLimit(5, 5, floor=0.1)),
    Pick("near", chain_limit(4)),
    Pick("near", DraftLimit(6, 6, floor=0.3)),
    Pick("near", tree_limit(7)),
    Pick("near", DraftLimit(15, 4, "tree", floor=0.05)),
    Pick("narrow", chain_limit(5)),
    Pick("narrow", tree_limit(7)),
    Pick("wide", tree_limit(5)),
    Pick("forgetful", chain_limit(3)),
    Pick("far>near", chain_limit(6)),
    Pick("far>near", chain_limit(8, tree_limit(7))),
    Pick("suffix>near", chain_limit(5, chain_limit(4))),
    Pick("narrow>forgetful", chain_limit(5, chain_limit(2))),
    Pick("far>wide>near", chain_limit(7, chain_limit(4, chain_limit(2)))),
)


def model(share: int, seed: int, vocab: int = VOCAB, capacity: int = CAPACITY + MAX_ROWS, step: int = 1) -> TableModel:
    """A model that agrees with the others the more, the larger ``share`` is; its rows are padded to whole steps."""
    made = TableModel(vocab, capacity, MAX_ROWS, pad=lambda rows: -(-rows // step) * step)
    shape = (3, LARGEST_VOCAB, LARGEST_VOCAB, LARGEST_VOCAB)
    table = Numbers(1).bell(shape) * np.float32(share) + Numbers(seed).bell(shape)
    made._table = np.ascontiguousarray(table[:, :vocab, :vocab, :vocab])
    return made


def decoder() -> GoldenDecoder:
    """Some models pad rows, lack tokens, or have a small cache."""
    levels = {
        "near": model(4, 2),
        "far": model(2, 3, step=2),
        "narrow": model(4, 4, vocab=9),
        "wide": model(4, 5, vocab=16),
        "forgetful": model(4, 6, capacity=45),
    }
    return GoldenDecoder(model(4, 7, step=4), levels, CAPACITY)


def answers() -> Iterator[dict[str, Any]]:
    """One for every setting and pick, each of a decoder that was never used."""
    for name, sampling in SAMPLINGS.items():
        for pick in PICKS:
            answer = decoder().answer(Question(PROMPT, sampling, pick, LENGTH))
            yield {"name": f"{name}, {pick.name}", "target": "target", **answer}
    for pick in (pick for pick in PICKS if pick.drafter == "suffix"):
        repetitive = GoldenDecoder(model(4, 8, vocab=3), {}, CAPACITY)
        answer = repetitive.answer(Question((0, 1), SAMPLINGS["seeded"], pick, 3 * LENGTH))
        yield {"name": f"repetitive, {pick.name}", "target": "repetitive", **answer}


def written() -> str:
    """The content of the file: one answer a line."""
    return "[\n" + ",\n".join(json.dumps(answer, separators=(",", ":")) for answer in answers()) + "\n]\n"


if __name__ == "__main__":
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(written(), encoding="utf-8")
