"""The data file beside a graph: tensors at aligned places, in any order, under its own name once it is complete."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

_PAGE = 4096  # tensors of at least a page begin at one, so that they can be mapped and used where they lie
_LINE = 64  # smaller tensors begin at a cache line


class DataFile:
    """``path``, written as ``<path>.part`` until ``finish``; ``report`` gets the bytes of every write."""

    def __init__(self, path: Path, report: Callable[[int], None]) -> None:
        self.path, self.size, self._report = path, 0, report
        self._finished = False
        self._part = path.with_name(path.name + ".part")
        self._file = self._part.open("wb", buffering=0)

    def place(self, initializer: ir.Value, position: int | None = None) -> int:
        """Makes the initializer an external one at ``position``, by default behind all others; returns its position."""
        count = size_of(initializer)
        if position is None:
            align = _PAGE if count >= _PAGE else _LINE
            position = -(-self.size // align) * align
            self.size = position + count
        assert initializer.dtype is not None
        initializer.const_value = ir.ExternalTensor(
            self.path.name,
            position,
            count,
            initializer.dtype,
            shape=ir.Shape(dims_of(initializer)),
            name=str(initializer.name),
            base_dir=self.path.parent,
        )
        return position

    def write(self, position: int, array: npt.NDArray[Any]) -> None:
        """Writes a contiguous array at ``position``."""
        view = memoryview(array.data).cast("B")
        self._file.seek(position)
        while view:  # one call writes at most 2 GiB
            view = view[self._file.write(view) :]
        self._report(array.nbytes)

    def finish(self) -> None:
        """Gives the file its name."""
        self._file.close()
        os.replace(self._part, self.path)
        self._finished = True

    def discard(self) -> None:
        """Removes the file, even after ``finish``."""
        self._file.close()
        (self.path if self._finished else self._part).unlink(missing_ok=True)


def dims_of(initializer: ir.Value) -> tuple[int, ...]:
    """The shape of an initializer, with or without values."""
    assert initializer.shape is not None
    return tuple(int(size) for size in initializer.shape.numpy())


def size_of(initializer: ir.Value) -> int:
    """Bytes of an initializer."""
    assert initializer.dtype is not None
    return math.prod(dims_of(initializer)) * int(initializer.dtype.itemsize)
