"""Protects objects from being destroyed in a forked process, which has their memory but not their threads.

Destroying a session waits for ONNX Runtime's threads, and closing an answer waits for the thread of its drafter. In a
forked process those threads do not exist, so it would wait for ever, at its exit at the latest. There such objects are
kept to the end; their memory is shared with the parent and costs nothing.
"""

from __future__ import annotations

import ctypes
import os
import weakref

_kept: weakref.WeakSet[object] = weakref.WeakSet()


def outlive_forks(value: object) -> None:
    """In processes that are forked from now on, ``value`` is never destroyed."""
    _kept.add(value)


def _keep() -> None:
    for value in list(_kept):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


# Only CPython counts references; others do not destroy what is left when a process ends.
if hasattr(os, "register_at_fork") and hasattr(ctypes, "pythonapi"):
    os.register_at_fork(after_in_child=_keep)
