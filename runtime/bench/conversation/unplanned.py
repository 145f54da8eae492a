"""What is usual elsewhere, in the same engine: all memory is allocated at once, and prompts get logits in every row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from runtime.arrays import TokenArray
from runtime.decoding.protocols import HiddenInput
from runtime.engine import Engine
from runtime.models.exact_widths import SafeWidths
from runtime.models.loader import Levels
from runtime.models.ort_model import OrtModel


class FullLogitsModel(OrtModel):
    """A model that computes logits for every row of a prompt, though only the last are used."""

    def prefill(self, tokens: Sequence[int] | TokenArray, hidden: HiddenInput | None = None) -> None:
        """See ``Model``. As many rows at a time as there is room for logits."""
        assert hidden is None, "it is the target"
        rows = min(self._chunk, self.max_rows)
        for start in range(0, len(tokens), rows):
            self.forward(tokens[start : start + rows])


class UnplannedLevels(Levels):
    """Levels whose target is a ``FullLogitsModel``; ``allocate_all`` makes room for its logits."""

    target_type: ClassVar[type[OrtModel]] = FullLogitsModel


def allocate_all(engine: Engine) -> None:
    """Fills all KV caches with zeros, and makes room for the logits of a whole chunk of prompt."""
    for model in (engine.target, *engine.drafters.values()):
        for array in model.cache.arrays:
            array.fill(0)
    target, safe, chunk = engine.target, engine.target.widths, engine.plan.prefill_chunk
    if chunk > target.max_rows:
        target.resize(target.cache.capacity, chunk, chunk)
        target.widths = SafeWidths((*safe.widths, *range(safe.widths[-1] + 1, chunk + 1)), safe.exact, safe.tree)
