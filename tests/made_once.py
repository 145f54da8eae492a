"""What takes long to make is made once for all processes of a run of the tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from export.writer.lock import locked


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder ``name`` of this run, by ``make`` of the first that asks; whoever asks meanwhile waits. Read-only."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made-once" / name
    made = folder.with_name(f"{name}.made")
    with locked(made, lambda line: None):  # exports lock their folder themselves
        if not made.exists():
            make(folder)
            made.touch()
    return folder
