"""What all tests of the export share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def _quick_traces(operators_read_once: None) -> None:
    """Nearly every test here traces a model."""
