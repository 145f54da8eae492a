"""What the meter says is what was allocated, mapped or given back, of the kind and in the phase where it happened."""

from __future__ import annotations

import ctypes
import mmap
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep

import pytest

from memory import meter
from memory.meter import PeakMeter, read_mapped_files, read_memory, resident_bytes

BYTES = 50_000_000
# The system counts resident pages in batches, and Python allocates on its own.
SLACK = 2_000_000

pytestmark = pytest.mark.skipif(
    read_memory() is None, reason="this system does not tell anonymous from file-backed memory"
)


@contextmanager
def ballast() -> Iterator[None]:
    """Anonymous bytes, mapped: the allocator might serve them from memory that was freed before."""
    with mmap.mmap(-1, BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
        held[:: mmap.PAGESIZE] = b"x" * -(-BYTES // mmap.PAGESIZE)
        yield


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a file: with a colon - and a dash"
    path.write_bytes(b"x" * BYTES)
    return path


def test_anonymous_bytes_are_what_was_written_to() -> None:
    before = read_memory()
    with ballast():
        held = read_memory()
    after = read_memory()
    assert before is not None
    assert held is not None
    assert after is not None
    assert held.anonymous_bytes - before.anonymous_bytes == pytest.approx(BYTES, abs=SLACK)
    assert held.file_bytes == pytest.approx(before.file_bytes, abs=SLACK)
    assert after.anonymous_bytes == pytest.approx(before.anonymous_bytes, abs=SLACK)


def test_file_bytes_are_the_pages_that_were_read_by_file(file: Path) -> None:
    before = read_memory()
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as held:
        assert held[:: mmap.PAGESIZE].count(b"x")
        now, files = read_memory(), read_mapped_files()
    assert before is not None
    assert now is not None
    assert files is not None
    assert now.file_bytes - before.file_bytes == pytest.approx(BYTES, abs=SLACK)
    assert now.anonymous_bytes == pytest.approx(before.anonymous_bytes, abs=SLACK)
    assert files[str(file)] == -(-BYTES // mmap.PAGESIZE) * mmap.PAGESIZE


def test_pages_written_to_privately_are_anonymous_and_no_longer_the_files(file: Path) -> None:
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY) as held:
        before = read_memory()
        # A byte a page, and no copy of the whole: freed memory of that size may stay with the allocator and be counted.
        held[: BYTES // 2 : mmap.PAGESIZE] = b"y" * -(-BYTES // 2 // mmap.PAGESIZE)
        now, files = read_memory(), read_mapped_files()
    assert before is not None
    assert now is not None
    assert now.anonymous_bytes - before.anonymous_bytes == pytest.approx(BYTES // 2, abs=SLACK)
    assert files is not None
    assert files.get(str(file), 0) < BYTES // 2 + SLACK


def test_resident_bytes_are_those_of_the_pages_that_were_touched() -> None:
    page = mmap.PAGESIZE
    with mmap.mmap(-1, 100 * page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            held.madvise(mmap.MADV_NOHUGEPAGE)
        held[10 * page] = held[20 * page] = held[21 * page] = 1
        anchor = ctypes.c_char.from_buffer(held)
        start = ctypes.addressof(anchor)
        assert resident_bytes([(start, 100 * page)]) == 3 * page
        assert resident_bytes([(start, 15 * page), (start + 5 * page, 10 * page)]) == page
        assert resident_bytes([(start + 20 * page + 7, page)]) == 2 * page
        assert resident_bytes([]) == 0
        del anchor


def test_a_peak_belongs_to_its_phase() -> None:
    with PeakMeter() as meter:
        with meter.phase("quiet"):
            pass
        with meter.phase("high"), ballast():
            sleep(0.05)
        with meter.phase("after"):
            pass
    quiet, high, after = meter.phases
    assert [phase.name for phase in meter.phases] == ["quiet", "high", "after"]
    assert high.peak.anonymous_bytes - high.before.anonymous_bytes == pytest.approx(BYTES, abs=SLACK)
    assert high.after.anonymous_bytes == pytest.approx(high.before.anonymous_bytes, abs=SLACK)
    for phase in (quiet, after):
        assert phase.peak.anonymous_bytes == pytest.approx(high.before.anonymous_bytes, abs=SLACK)


def test_a_phase_that_fails_is_recorded() -> None:
    with PeakMeter() as meter, pytest.raises(RuntimeError), meter.phase("failed"), ballast():
        raise RuntimeError
    assert [phase.name for phase in meter.phases] == ["failed"]


def test_another_process_is_measured_from_outside() -> None:
    program = f"held = b'x' * {BYTES}; print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        with PeakMeter(child.pid) as meter, meter.phase("child"):
            assert child.stdout.readline() == "held\n"
        files = read_mapped_files(child.pid)
        child.communicate("\n")
    (phase,) = meter.phases
    assert BYTES < phase.after.anonymous_bytes < BYTES + 20_000_000
    assert files is not None
    assert any("python" in name for name in files)
    assert read_memory(child.pid) is None
    assert read_mapped_files(child.pid) is None


def test_a_system_that_does_not_tell_gives_none_and_no_phases(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(meter, "_PROC", tmp_path)
    assert read_memory() is None
    assert read_mapped_files() is None
    assert resident_bytes([(0, 1)]) is None
    with PeakMeter() as watching, watching.phase("nothing"):
        pass
    assert watching.phases == []
