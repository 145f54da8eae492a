"""Twenty clients, for ``POCKETSPEC_LOAD_SECONDS`` (default: 600)."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from tests.runtime.server.load import asks, load
from tests.runtime.server.serving import serving


@pytest.mark.slow
def test_many_clients_get_their_own_answers_within_the_plan(tiny_bundle_int4: Path) -> None:
    known = asks(tiny_bundle_int4, random.Random(0))
    with serving(tiny_bundle_int4) as server:
        tally = asyncio.run(load(server, known, float(os.environ.get("POCKETSPEC_LOAD_SECONDS", "600"))))
    print(tally.line())
    assert tally.faults == []
    assert tally.events["answered"] > 0
