"""What all tests of the export share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import Lower


@pytest.fixture(scope="session", autouse=True)
def _quick_traces(lowered_once: Lower) -> Iterator[None]:
    """Nearly every test here traces a model."""
    from tests.export import filled

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filled, "lower", lowered_once)
        yield
