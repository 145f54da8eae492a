"""How often drafters and intermediates say what the target says: the first guess at how many drafts it will accept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from export.check import predict
from export.manifest import Level


def with_agreement(bundle: Path, graph: str, levels: Sequence[Level], text: Sequence[int]) -> tuple[Level, ...]:
    """``levels`` of ``bundle``, target first, partners with their agreement on the tokens ``text``.

    ``graph`` is the file that runs in each of their folders. A partner reads what fits its positions. Random weights
    have nothing to say, nor has anyone to them.
    """
    target, *partners = levels
    if not partners or target.source.kind == "random-weights":
        return tuple(levels)
    wanted = predict(bundle / target.folder / graph, text)
    found = [target]
    for level in partners:
        if level.source.kind != "random-weights":
            said = predict(bundle / level.folder / graph, text[: level.shape.positions])
            level = replace(level, agreement=float(np.mean(said == wanted[: len(said)])))
        found.append(level)
    return tuple(found)
