"""A model whose head has the rows of some tokens alone. Its embedding keeps all, since it reads every token."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from export.sources.empty_model import empty_model
from export.sources.tensor_source import FloatArray, TensorSource


class CutHead:
    """A ``TensorSource``: ``whole``, but of the tensors that ``origins`` makes (by name) the rows ``ids`` alone."""

    def __init__(self, whole: TensorSource, origins: dict[str, str], ids: Sequence[int]) -> None:
        self.whole, self._origins = whole, origins
        self._ids: npt.NDArray[np.int64] = np.asarray(ids, np.int64)

    def names(self) -> Collection[str]:
        """See ``TensorSource``."""
        return {*self.whole.names(), *self._origins}

    def shape(self, name: str) -> tuple[int, ...]:
        """See ``TensorSource``."""
        if name not in self._origins:
            return self.whole.shape(name)
        return (len(self._ids), *self.whole.shape(self._origins[name])[1:])

    def read(self, name: str, first: int = 0, last: int | None = None) -> FloatArray:
        """See ``TensorSource``. Ids without a gap between them are read at once."""
        if name not in self._origins:
            return self.whole.read(name, first, last)
        ids = self._ids[first:last]
        runs = np.split(ids, np.flatnonzero(np.diff(ids) != 1) + 1) if len(ids) else []
        parts = [self.whole.read(self._origins[name], int(run[0]), int(run[-1]) + 1) for run in runs]
        empty = np.empty((0, *self.shape(name)[1:]), np.float32)
        return np.concatenate(parts) if parts else empty


def cut_head(config: Any, source: TensorSource, ids: Sequence[int]) -> tuple[Any, CutHead]:
    """``config`` with a head that is not tied, and ``source`` with the rows ``ids`` of it, ascending."""
    model = empty_model(config)
    paths = {id(module): path for path, module in model.named_modules()}
    head = paths[id(model.get_output_embeddings())]
    stored = f"{head}.weight"
    if stored not in source.names():  # tied: the embedding's rows are the head's
        stored = f"{paths[id(model.get_input_embeddings())]}.weight"
    origins = {f"{head}.weight": stored}
    if model.get_output_embeddings().bias is not None:
        origins[f"{head}.bias"] = f"{head}.bias"
    config = copy.deepcopy(config)
    config.tie_word_embeddings = False
    return config, CutHead(source, origins, ids)
