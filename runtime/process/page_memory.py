"""Memory from the system: taken page by page when first written, returned page by page.

An allocator keeps freed memory for later, and huge pages take two megabytes for one byte. A KV cache that must keep to
its plan can afford neither.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from export.manifest import PocketspecError


class NoMemoryError(PocketspecError, MemoryError):
    """Address space that the system refuses."""


class Pages:
    """``nbytes`` of zeroed, private memory, which live as long as this object or any array of it."""

    def __init__(self, nbytes: int) -> None:
        try:
            self._map = _map_private(nbytes)
        except OSError as error:
            raise NoMemoryError(
                f"the system gives no {nbytes:,} bytes for a KV cache ({error.strerror}): ask for a shorter context"
            ) from None
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            with suppress(OSError):  # a kernel without huge pages refuses the advice and does not need it
                self._map.madvise(mmap.MADV_NOHUGEPAGE)

    def array(self, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """The whole memory as one array."""
        return np.frombuffer(self._map, dtype).reshape(shape)

    def release(self, first: int, last: int) -> None:
        """Returns the whole pages within bytes ``first`` to ``last``; afterwards they read as zero, or as before.

        Does nothing on systems that cannot take back a part, or for locked memory.
        """
        first = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE
        size = last // mmap.PAGESIZE * mmap.PAGESIZE - first
        if size > 0 and hasattr(mmap, "MADV_DONTNEED"):
            with suppress(OSError):
                self._map.madvise(mmap.MADV_DONTNEED, first, size)


def _map_private(nbytes: int) -> mmap.mmap:
    if sys.platform == "win32":
        return mmap.mmap(-1, nbytes)
    return mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
