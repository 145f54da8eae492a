"""The bundle that tests of packed weights are about."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.kernels.weights.weighty import write_weighty_bundle


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small int4 bundle with its weights beside the graph; the user's folder is beside it."""
    monkeypatch.setenv("POCKETSPEC_CACHE", str(tmp_path / "user"))
    return write_weighty_bundle(tmp_path / "bundle")
