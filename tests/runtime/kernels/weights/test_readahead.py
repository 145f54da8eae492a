"""Reading ahead brings a file's pages into memory, and stops when told to."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from memory import Request
from runtime.engine import Engine
from runtime.kernels.weights.readahead import Warmer, evict, read_through, resident_share


@pytest.fixture
def cold_file(tmp_path: Path) -> Path:
    import os

    path = tmp_path / "weights"
    with path.open("wb") as file:
        file.write(os.urandom(24 << 20))
        file.flush()
        os.fsync(file.fileno())
    evict(path)
    if resident_share(path) > 0.1:
        pytest.skip("this file system does not give its pages back")
    return path


def test_a_file_that_was_read_through_is_resident(cold_file: Path) -> None:
    read_through(cold_file)
    assert resident_share(cold_file) > 0.99


def test_a_warmer_brings_in_what_is_cold(cold_file: Path) -> None:
    Warmer([cold_file]).wait()
    assert resident_share(cold_file) > 0.99


def test_reading_stops_when_told(cold_file: Path) -> None:
    stopped = threading.Event()
    stopped.set()
    read_through(cold_file, stopped)
    assert resident_share(cold_file) < 0.9


def test_a_missing_file_does_not_disturb_the_next(cold_file: Path, tmp_path: Path) -> None:
    Warmer([tmp_path / "missing", cold_file]).wait()
    assert resident_share(cold_file) > 0.99


def test_an_empty_file_counts_as_resident(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert resident_share(tmp_path / "empty") == 1.0


def test_an_engine_that_was_opened_warm_has_all_its_weights_in_memory(tiny_bundle_int4: Path) -> None:
    with Engine.open(tiny_bundle_int4, Request(context=64), warm=True) as engine:
        files = engine.mapped_files()
        assert {model.kernels.residence for model in (engine.target, *engine.drafters.values())} <= {
            "native",
            "prepacked",
        }
        assert len(files) == 1 + len(engine.drafters)
        assert all(resident_share(file) == 1.0 for file in files)
