"""What this machine can do: the features of its processor, and its memory bandwidth.

Bandwidth limits the speed of decoding, because every step reads all weights once.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import numpy as np

from memory.cores import read_cores

# Larger than the last-level cache of most processors, and little beside any model worth measuring.
MOST_BYTES = 128 << 20
_MOST_SECONDS = 0.4
_PASSES = 5


def measure_bandwidth(threads: int | None = None, most_bytes: int = MOST_BYTES, passes: int = _PASSES) -> float:
    """Bytes a second that ``threads`` (None: one for every usable core) read together, the best of a few passes.

    It reads with NumPy's maximum over bytes, the reduction that is least work for a core. It takes ``most_bytes`` of
    memory for a moment; what fits a cache is read faster than memory.
    """
    held = np.ones(most_bytes, np.uint8)
    parts = np.array_split(held, threads or read_cores().usable)
    best, start = float("inf"), perf_counter()
    with ThreadPoolExecutor(len(parts)) as pool:
        for _ in range(passes):
            before = perf_counter()
            list(pool.map(np.max, parts))
            best = min(best, perf_counter() - before)
            if perf_counter() - start > _MOST_SECONDS:
                break
    return most_bytes / best


def processor_features() -> frozenset[str]:
    """The features of the processor, under their names in /proc/cpuinfo; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    lines = (line.split(":", 1) for line in text.splitlines() if line.startswith(("flags", "Features")))
    return frozenset(next((names.split() for _, names in lines), ()))
