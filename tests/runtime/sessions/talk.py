"""What is asked of engines before and after their sessions are kept."""

from __future__ import annotations

from itertools import product

import pytest

from memory import Request
from runtime.decoding.sampling import SamplingParams
from runtime.engine import Engine, TextChunk
from runtime.kernels.library import library_path
from runtime.speculation.request import PLAIN, Speculation

STACKED = Request(threads=1, drafters=("near", "far"), shape="tree", nodes=8)
SAMPLED = SamplingParams(temperature=0.9, seed=11)
SPECULATIONS = [
    PLAIN,
    Speculation("near", 4),
    Speculation("near", 6, "tree"),
    Speculation("far>near", 4),
    Speculation("suffix+near", 4),
]
CASES = [
    *product([SamplingParams(), SAMPLED], SPECULATIONS),
    (SAMPLED, Speculation("near", 6, "tree", acceptance="recursive")),
]
NATIVE = pytest.mark.skipif(not library_path().is_file(), reason="the native kernels are not built")


def tokens_of(chunks: list[TextChunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.step.tokens]


def forget(engine: Engine) -> None:
    """As if the engine had just been opened."""
    for model in (engine.target, *engine.drafters.values()):
        model.cache.rollback(0)
