"""Memory that was freed but that the C library keeps for later goes back to the system."""

from __future__ import annotations

import ctypes
import os


def give_back() -> None:
    """Returns the heap's free pages to the system, where the C library is glibc; elsewhere does nothing.

    Of what parsing a tokenizer of 151,000 entries leaves behind, 38 of 80 MiB: measured with Qwen2's. It takes a few
    milliseconds, so it belongs behind what is done once, and never into a step.
    """
    if os.name != "posix":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
