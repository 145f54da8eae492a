"""How large keys and values of a written graph become on a text: quantized KV caches take their scales from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from export.manifest import ModelShape
from export.sources.tensor_source import FloatArray
from export.validation.check import make_steps, read_passage
from export.validation.check_text import MIXTURE, MIXTURE_NAME
from export.validation.limits import PIECE_BYTES
from export.validation.partitioned_session import PiecedGraph


def measure_text_ranges(graph: Path, shape: ModelShape, checkpoint: Path | None) -> dict[str, FloatArray]:
    """The ranges on the bundled mixture of texts, as the tokenizer in ``checkpoint`` reads it; on random ones without.

    The text is another than the one that a KV type is judged on.
    """
    return measure_ranges(graph, read_passage(checkpoint, shape, bundled=(MIXTURE_NAME, MIXTURE)).tokens)


def measure_ranges(graph: Path, tokens: Sequence[int]) -> dict[str, FloatArray]:
    """Per cache input of the float32 ``graph``, the largest magnitudes on ``tokens``, ``[1, kv_heads, 1, size]``."""
    pieced = PiecedGraph(graph, PIECE_BYTES)
    steps, carried = make_steps(pieced, tokens, [0, len(tokens)])
    (values,) = pieced.run(steps, carried, carried.values())
    return {past: np.abs(values[present]).max(2, keepdims=True) for past, present in carried.items()}
