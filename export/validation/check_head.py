"""Compares the written graph of a prediction head with its torch module, and refuses a graph that is wrong.

Both read the same tokens, random hidden rows of a target, and at the end rows of the head's own. As for other levels,
products are computed in fp32 and both have the written weights, so that nothing is left but what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from export.graph.recipe import LoweredGraph
from export.heads.head import Head
from export.sources.streamed_model import make_streamed
from export.sources.tensor_source import FloatArray, TensorSource
from export.validation.check import TOLERANCE, CheckError, check_weights, make_steps
from export.validation.dequantized import WrittenWeights
from export.validation.limits import LEAN_TOKENS, PIECE_BYTES
from export.validation.partitioned_session import PiecedGraph

# Rows at the end whose hidden rows are the head's own, each in a step by itself.
_OWN_ROWS = 2


def check_head(graph: Path, lowered: LoweredGraph, head: Head, source: TensorSource, tokens: Sequence[int]) -> None:
    """CheckError if the graph written at ``graph`` does not compute ``head`` with the weights of ``source``."""
    written = WrittenWeights(graph, lowered.recipes, source)
    check_weights(graph, lowered, source, written)
    tokens, rng = tokens[: LEAN_TOKENS + (head.stack or 0)], np.random.default_rng(0)
    own_rows = _OWN_ROWS if head.stack is None else head.stack - 1
    features = rng.standard_normal((len(tokens) - own_rows, head.width), np.float32)
    own = rng.standard_normal((own_rows, head.own_width), np.float32)
    if head.stack is not None:  # the last number is that of the row's head
        own[:, -1] = np.arange(1, own_rows + 1)
    exported = _graph_outputs(PiecedGraph(graph, PIECE_BYTES, exact=True), tokens, features, own)
    reference = _reference(head, written, tokens, features, own)
    for what, given, right in zip(("logits", "hidden rows"), exported, reference, strict=True):
        difference = float(np.abs(given - right).max() / max(np.abs(right).max(), 1e-6))
        if not difference <= TOLERANCE:
            raise CheckError(
                f"the exported graph of {head.architecture} is wrong: its {what} are off by {difference:.2g} of the"
                f" largest (allowed {TOLERANCE:.0e}); this is a defect of the export, nothing was kept"
            )


def _graph_outputs(
    graph: PiecedGraph, tokens: Sequence[int], features: FloatArray, own: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Logits and hidden rows, in forwards like those of drafting: several rows of the target, then own rows singly."""
    count = len(features)
    bounds = [0, count * 2 // 3, *range(count, len(tokens) + 1)]
    steps, carried = make_steps(graph, tokens, bounds)
    given = []
    for step, first, last in zip(steps, bounds, bounds[1:], strict=False):
        rows = features[first:last], own[max(first - count, 0) : max(last - count, 0)]
        given.append({**step, "features": rows[0][None], "own_hidden": rows[1][None]})
    outputs = graph.run(given, carried, ["logits", "hidden"])
    logits, hidden = (np.concatenate([values[name][0] for values in outputs]) for name in ("logits", "hidden"))
    return logits, hidden


def _reference(
    head: Head, weights: TensorSource, tokens: Sequence[int], features: FloatArray, own: FloatArray
) -> tuple[FloatArray, FloatArray]:
    module = make_streamed(head.config, weights, lambda: head.build("eager"))
    with torch.inference_mode():
        rows = (torch.from_numpy(array)[None] for array in (features, own))
        out = module(torch.tensor([list(tokens)]), *rows, use_cache=False)
    return np.asarray(out.logits[0].numpy(), np.float32), np.asarray(out.hidden[0].numpy(), np.float32)
