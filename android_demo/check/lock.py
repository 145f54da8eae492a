"""Lets one build at a time write to the folder of outputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from android_demo.check.places import BUILD
from export.writer.lock import locked


@contextmanager
def one_build() -> Iterator[None]:
    """A context in which no other process builds; waits for one that does."""
    with locked(BUILD, lambda _: print("another build is running; waiting until it ends", flush=True)):
        yield
