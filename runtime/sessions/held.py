"""The open levels of an engine as sessions see them: their rows, where those come from, and what may replace them.

The target must take the rows of a session, or the session is refused. A drafter that cannot use its own reads them
again, as it does whenever its cache does not fit the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.manifest import Manifest
from runtime.arrays import TokenArray
from runtime.decoding.context import Context, shared_prefix
from runtime.drafters.window import window_of, window_size
from runtime.models.ort_model import OrtModel
from runtime.open_models import PlannedModels
from runtime.sessions.errors import OtherSessionError
from runtime.sessions.identity import Identity, identify

READ_AGAIN = "read its tokens again instead (reread=True, --reread)"


@dataclass(frozen=True)
class HeldLevel:
    """An open level: ``model`` with its cache, and the ``identity`` of the rows that it computes.

    ``most`` is how many of its rows are seen, the first ones; None: all. Of layers with states instead of rows the
    states after these are seen.
    """

    name: str
    is_target: bool
    identity: Identity
    model: OrtModel
    most: int | None = None

    @property
    def tokens(self) -> TokenArray:
        """The tokens whose rows are held, int32 ``[rows]``: a view, valid until the next change."""
        return self.model.cache.tokens[: self.most]

    @property
    def arrays(self) -> list[npt.NDArray[Any]]:
        """The rows held: views ``[kv_heads, rows, head_size]`` for every key and value in the graph's order.

        They are followed by what the states of layers follow from, if there are any (``LayerStates.save``).
        """
        states, rows = self.model.cache.states, len(self.tokens)
        return self._rows(rows) + ([] if states is None else states.save(rows))

    @property
    def behind(self) -> int:
        """Rows whose updates follow the bases of recurrent states."""
        states = self.model.cache.states
        return 0 if states is None else states.behind(len(self.tokens))

    def limited_to(self, context: Context) -> HeldLevel:
        """This level with those rows alone that the text of ``context`` can use."""
        tokens = context.tokens
        if not self.is_target:
            tokens = window_of(tokens, max(2, window_size(self.model, context.capacity)))
        most = shared_prefix(self.tokens, tokens)
        return replace(self, most=most if self.model.cache.can_reach(most) else 0)

    def fault(self, identity: Identity, rows: int, behind: int = 0) -> str | None:
        """Why ``rows`` rows of ``identity`` cannot be held here; None if they can.

        ``behind`` of them are updates of recurrent states.
        """
        if other := identity.difference(self.identity):
            return other
        states = self.model.cache.states
        if behind > (0 if states is None else min(states.sizes.held, rows)):
            return f"its states lack {behind:,} rows, and fewer can be repeated here"
        cache = self.model.cache
        room = cache.capacity if self.is_target else cache.capacity - self.model.max_rows
        return None if rows <= room else f"it holds {rows:,} rows, and there is room for {room:,} here"

    def context_fault(self, tokens: int, context: Context) -> str | None:
        """Why ``tokens`` tokens cannot be held in ``context``; None if they can."""
        return None if tokens <= context.capacity else f"it has {tokens:,} tokens, and the context {context.capacity:,}"

    def shapes(self, rows: int, behind: int) -> list[tuple[np.dtype[Any], tuple[int, ...]]]:
        """Types and shapes of the arrays of ``rows`` rows, ``behind`` of which are updates of recurrent states."""
        arrays, states = self.model.cache.arrays, self.model.cache.states
        shapes: list[tuple[np.dtype[Any], tuple[int, ...]]]
        shapes = [(array.dtype, (array.shape[1], rows, array.shape[3])) for array in arrays]
        if states is not None:
            shapes += [(np.dtype(np.float32), shape) for shape in states.saved_shapes(behind)]
        return shapes

    def require(self, what: str, identity: Identity, rows: int, behind: int, context: Context, tokens: int) -> None:
        """OtherSessionError about ``what`` unless this level can hold its rows, and ``context`` its tokens."""
        fault = self.fault(identity, rows, behind) or self.context_fault(tokens, context)
        if fault is not None:
            raise OtherSessionError(f"{what} cannot be continued: {fault}", READ_AGAIN)

    def empty(self, rows: int, behind: int) -> list[npt.NDArray[Any]]:
        """Forgets all rows; arrays like ``arrays`` that ``rows`` rows are to be written to, before ``keep``."""
        self.model.cache.rollback(0)
        self.model.cache.require(rows)
        shapes = self.shapes(rows, behind)[len(self.model.cache.arrays) :]
        return self._rows(rows) + [np.zeros(shape, dtype) for dtype, shape in shapes]

    def keep(self, tokens: Sequence[int] | TokenArray, arrays: Sequence[npt.NDArray[Any]], behind: int) -> None:
        """The rows of ``tokens`` have been written to ``arrays``, which ``empty`` gave: they are held from now on."""
        cache = self.model.cache
        if cache.states is not None:
            cache.states.load(arrays[len(cache.arrays) :], len(tokens), behind)
        cache.append(tokens)

    def _rows(self, rows: int) -> list[npt.NDArray[Any]]:
        return [array[0, :, :rows] for array in self.model.cache.arrays]


def held_levels(models: PlannedModels, bundle: Path, manifest: Manifest) -> list[HeldLevel]:
    """The open levels, the target first."""
    held = []
    for planned in models.plan.levels:
        is_target = planned.name == manifest.target.name
        model = models.target if is_target else models.drafters.get(planned.name)
        if model is not None and manifest.level(planned.name).self_draft is None:
            identity = identify(bundle, manifest, models.plan, planned, model.kernels)
            held.append(HeldLevel(planned.name, is_target, identity, model))
    return held
