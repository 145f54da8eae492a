"""The engine whose sessions are kept: all levels of the stacked bundle, as every module of tests opens it anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.engine import Engine
from tests.runtime.sessions.talk import STACKED


@pytest.fixture(scope="module")
def stacked(stacked_bundle: Path) -> Iterator[Engine]:
    with Engine.open(stacked_bundle, STACKED) as engine:
        yield engine
