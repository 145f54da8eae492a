"""Measures the cost of a forward by its number of rows, for each level, and how long an engine takes to start."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from runtime.bench.intervals import Spread, spread
from runtime.calibration.rows import varied_tokens
from runtime.decoding.stop import StopRule
from runtime.engine import Engine
from runtime.kernels.weights.readahead import evict, resident_share
from runtime.models.exact_widths import any_width
from runtime.models.ort_model import OrtModel

# Rows of KV cache before the timed ones, because a conversation has some as well.
_PAST_ROWS = 128
_FORWARDS = 15


def measure_rows(model: OrtModel, rows: Sequence[int]) -> dict[int, Spread]:
    """Seconds of a forward by its number of rows, after 128 rows of cache, without padding. The cache is left empty."""
    widths, model.widths = model.widths, any_width(model.max_rows)
    past = min(_PAST_ROWS, model.cache.capacity - model.max_rows)
    times: dict[int, list[float]] = {count: [] for count in rows if count <= model.max_rows}
    try:
        model.cache.rollback(0)
        model.prefill(varied_tokens(past, 0, model.vocab_size))
        for turn in range(_FORWARDS + 1):
            for count, seconds in times.items():
                tokens = varied_tokens(count, turn, model.vocab_size)  # experts depend on them
                start = perf_counter()
                model.forward(tokens)
                if turn:  # the first turn warms up
                    seconds.append(perf_counter() - start)
                model.cache.rollback(past)
    finally:
        model.cache.rollback(0)
        model.widths = widths
    return {count: spread(seconds) for count, seconds in times.items()}


@dataclass(frozen=True)
class EngineStart:
    """The start of an engine: the seconds until it is open, and from then until its first token.

    ``resident`` is the share of its mapped weights that was in memory before.
    """

    resident: float
    open_seconds: float
    first_token_seconds: float


def measure_start(
    open_engine: Callable[[], Engine], prompt: Sequence[int], files: Sequence[Path], cold: bool
) -> EngineStart:
    """Opens an engine and generates one token. ``cold``: the system is first asked to drop ``files`` from memory."""
    if cold:
        for file in files:
            evict(file)
    resident = statistics.fmean([resident_share(file) for file in files]) if files else 1.0
    start = perf_counter()
    with open_engine() as engine:
        opened = perf_counter()
        next(engine.steps(prompt, stop=StopRule()))
        return EngineStart(resident, opened - start, perf_counter() - opened)
