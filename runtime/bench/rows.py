"""What a forward of so many rows costs each level, and what an engine takes to start."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from runtime.bench.intervals import Spread, spread
from runtime.decoding.stop import StopRule
from runtime.engine import Engine
from runtime.kernels.weights.readahead import evict, resident_share
from runtime.models.exact_widths import any_width
from runtime.models.ort_model import OrtModel

# Rows of KV cache behind which the cost of rows is measured: a conversation, not an empty cache.
_PAST_ROWS = 128
_FORWARDS = 15


def measure_rows(model: OrtModel, rows: Sequence[int]) -> dict[int, Spread]:
    """Seconds of a forward of so many rows behind 128 rows of cache, not padded. The cache is left empty."""
    widths, model.widths = model.widths, any_width(model.max_rows)
    past = min(_PAST_ROWS, model.cache.capacity - model.max_rows)
    times: dict[int, list[float]] = {count: [] for count in rows if count <= model.max_rows}
    try:
        model.cache.rollback(0)
        model.prefill([0] * past)
        for turn in range(_FORWARDS + 1):
            for count, seconds in times.items():
                start = perf_counter()
                model.forward([0] * count)
                if turn:  # the first of each warms up
                    seconds.append(perf_counter() - start)
                model.cache.rollback(past)
    finally:
        model.cache.rollback(0)
        model.widths = widths
    return {count: spread(seconds) for count, seconds in times.items()}


@dataclass(frozen=True)
class Start:
    """How an engine starts: the share of its mapped weights that was in memory, and seconds to open it and from there
    to the first token of a prompt."""

    resident: float
    open_seconds: float
    first_token_seconds: float


def measure_start(open_engine: Callable[[], Engine], prompt: Sequence[int], files: Sequence[Path], cold: bool) -> Start:
    """Opens an engine for one token. ``cold``: after asking the system to drop ``files`` from memory."""
    if cold:
        for file in files:
            evict(file)
    resident = statistics.fmean([resident_share(file) for file in files]) if files else 1.0
    start = perf_counter()
    with open_engine() as engine:
        opened = perf_counter()
        next(engine.steps(prompt, stop=StopRule()))
        return Start(resident, opened - start, perf_counter() - opened)
