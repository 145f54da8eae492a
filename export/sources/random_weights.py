"""Random weights with the names and shapes of a real model: reproducible, and in almost no memory.

They are for timing, since speed and memory do not depend on the values of weights. Every row of a matrix is a window
into one pool of normal numbers, at a place derived from seed, tensor and row. So any row can be made by itself, as fast
as memory is copied.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from export.sources.empty_model import empty_model
from export.sources.tensor_source import FloatArray

_POOL = 1 << 22  # 16 MiB; windows may overlap, which changes neither speed nor rounding errors
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: neighbouring rows land far apart


class RandomWeights:
    """A ``TensorSource`` with the tensors of the model that ``config`` (of transformers) describes.

    Matrices and biases are normal with the configuration's own deviation (0.02 if it has none); norms have gain 1, and
    buffers that checkpoints store are 1. Tied heads are left out, as in a checkpoint. The same ``seed`` gives the same
    values, however they are read. ``make`` makes the model if transformers does not.
    """

    def __init__(self, config: Any, seed: int = 0, make: Callable[[], Any] | None = None) -> None:
        self._shapes, self._buffers = tensor_shapes(config, make)
        deviation = float(getattr(config, "initializer_range", None) or 0.02)
        self._pool = np.random.default_rng(seed).standard_normal(_POOL, dtype=np.float32)
        self._pool *= np.float32(deviation)
        # Gemma stores a norm's gain minus one.
        self._gain = np.float32(0 if str(config.model_type).startswith("gemma") else 1)

    def names(self) -> Collection[str]:
        """Every tensor of the model."""
        return self._shapes.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._shapes[name]

    def read(self, name: str, first: int = 0, last: int | None = None) -> FloatArray:
        """Rows ``first`` to ``last`` (exclusive, None: all) of a tensor; the rows of a vector are its entries."""
        shape = self._shapes[name]
        if name in self._buffers:
            return np.ones(shape, np.float32)[first:last] if shape else np.ones((), np.float32)
        last = shape[0] if last is None else last
        if len(shape) == 1 and name.endswith("norm.weight"):
            return np.full(last - first, self._gain)
        key = zlib.crc32(name.encode())
        if len(shape) == 1:
            return self._pool[(np.arange(first, last) + key) % _POOL]
        inner = int(np.prod(shape[1:-1]))  # stacked experts are rows of rows
        return self._windows(key, first * inner, last * inner, shape[-1]).reshape(last - first, *shape[1:])

    def _windows(self, key: int, first: int, last: int, width: int) -> FloatArray:
        """Float32 ``[last - first, width]``: row r is the pool from a place that depends on ``key`` and r alone."""
        rows: npt.NDArray[np.uint64] = np.arange(first, last, dtype=np.uint64) + np.uint64(key) * np.uint64(1 << 20)
        places = ((rows * _SPREAD) >> np.uint64(20)) % np.uint64(_POOL - width + 1)
        values = np.empty((last - first, width), np.float32)
        for row, place in enumerate(places.tolist()):
            values[row] = self._pool[place : place + width]
        return values


def tensor_shapes(
    config: Any, make: Callable[[], Any] | None = None
) -> tuple[dict[str, tuple[int, ...]], frozenset[str]]:
    """Name and shape of every tensor, shared ones once, from transformers' model on the meta device; the buffers."""
    model = empty_model(config, make)
    parameters, stored = dict(model.named_parameters()), model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in stored}
    return {name: tuple(tensor.shape) for name, tensor in {**parameters, **buffers}.items()}, frozenset(buffers)
