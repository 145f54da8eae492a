"""Weights that are mapped: in a process of their own they are not anonymous memory, and two processes share them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from export.manifest import read_manifest
from memory.meter import PeakMeter
from runtime.kernels.selection import Wanted
from tests.runtime.kernels.weights.weighty import found_by, open_target, started, write_weighty_bundle

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells only on Linux")


@pytest.fixture(scope="module")
def heavy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 MB in fp32, packed already."""
    bundle = write_weighty_bundle(tmp_path_factory.mktemp("heavy") / "bundle", wide=1024, bits=32)
    open_target(bundle)
    return bundle


@linux_only
def test_weights_are_not_in_anonymous_memory(heavy_bundle: Path) -> None:
    with started(heavy_bundle, "portable") as process:
        found = found_by(process)
        weight_bytes = read_manifest(heavy_bundle).target.weight_bytes
        assert weight_bytes > 30e6
        assert found["residence"] == "prepacked"
        assert found["anonymous"] < weight_bytes / 4


@linux_only
def test_the_first_use_takes_no_more_memory_than_any_other(heavy_bundle: Path, tmp_path: Path) -> None:
    """Of the process that opens the bundle; the one that packs takes all weights and more.

    ONNX Runtime copies one matrix at a time while it opens, for some milliseconds: whoever looks sees the largest one,
    16.8 of 70 MB, or misses it. Packing in this process would add all of them (70 MB, tried).
    """
    bundle = shutil.copytree(heavy_bundle, tmp_path / "bundle", ignore=shutil.ignore_patterns(".device"))
    peaks = []
    for _ in range(2):
        with started(bundle, "portable") as process, PeakMeter(process.pid) as meter:
            with meter.phase("open"):
                assert found_by(process)["residence"] == "prepacked"
            peaks.append(meter.phases[0].peak.anonymous_bytes)
    first, later = peaks
    assert first < later + read_manifest(bundle).target.weight_bytes / 2


def mapped_bytes(pid: int, file: Path) -> dict[str, int]:
    """Sums over the mappings of ``file``, by the names that smaps has."""
    sums: dict[str, int] = {}
    wanted = False
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            wanted = line.endswith(str(file))
        elif wanted and rest[-1] == "kB":
            sums[first[:-1]] = sums.get(first[:-1], 0) + int(rest[0])
    return sums


@linux_only
@pytest.mark.parametrize("wanted", ["portable", "native"])
def test_two_processes_share_the_pages_of_weights(
    wanted: Wanted, heavy_bundle: Path, request: pytest.FixtureRequest
) -> None:
    bundle = heavy_bundle
    if wanted == "native":
        request.getfixturevalue("native_library")
        bundle = request.getfixturevalue("native_bundle")
    with started(bundle, wanted) as first, started(bundle, wanted) as second:
        found = found_by(first)
        assert found_by(second)["files"] == found["files"]
        assert found["residence"] == {"portable": "prepacked", "native": "native"}[wanted]
        (file,) = found["files"]
        for process in (first, second):
            sums = mapped_bytes(process.pid, Path(file))
            assert sums["Rss"] > 0
            assert sums["Shared_Clean"] + sums["Shared_Dirty"] > 0.9 * sums["Rss"]
            assert sums["Pss"] < 0.6 * sums["Rss"]
            assert sums["Anonymous"] == 0
