"""Makes the C library's allocator return freed memory to the system instead of keeping it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache

# Options of glibc's mallopt, and their values.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGE_BYTES = 256 << 10
_KEPT_BYTES = 1 << 20


def map_large_blocks() -> None:
    """Makes the C library map every large block separately from now on, if it is glibc; elsewhere does nothing.

    By default the limit for that rises to the largest block ever freed. Then the activations of a prompt leave holes
    between smaller blocks: 10.2 MiB instead of 8.1 for a chunk of 256 rows of a ten-layer model. Mapped blocks return
    to the system when they are freed, so the steps after a long prompt do not keep its memory.
    """
    set_option = _function("mallopt")
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, _LARGE_BYTES)
        set_option(_TRIM_THRESHOLD, _KEPT_BYTES)


def give_back() -> None:
    """Returns the heap's free pages to the system, if the C library is glibc; elsewhere does nothing.

    After parsing a tokenizer of 151,000 entries (Qwen2's), it returns 38 of 80 MiB. It takes a few milliseconds, so it
    is called after work that is done once, and never in a step.
    """
    trim = _function("malloc_trim")
    if trim is not None:
        trim(ctypes.c_size_t(0))


@cache  # a library that is opened again each time is a reference cycle
def _function(name: str) -> Callable[..., int] | None:
    """A function of the C library; None if it has none of that name."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
