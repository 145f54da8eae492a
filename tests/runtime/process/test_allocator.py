"""Free pages of the heap go back to the system, in a process of its own whose heap nobody else disturbs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.places import ROOT

# Small blocks below ones that stay: glibc keeps the pages between them until it is asked.
_PROGRAM = """
from runtime.process.allocator import give_back

def anonymous():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Anonymous:"))

blocks = [bytearray(4000) for _ in range(20_000)]
kept = blocks[::100]
del blocks
before = anonymous()
give_back()
print(before - anonymous())
"""

# A very large block that is freed makes glibc take even larger ones from the heap, where one small block behind them
# keeps them from going back.
_LARGE_BLOCKS = """
import sys
from runtime.process.allocator import map_large_blocks
from memory.meter import read_memory

if sys.argv[1] == "apart":
    map_large_blocks()
del (large := [bytearray(30 << 20)])[:]
before = read_memory().anonymous_bytes
blocks = [bytearray(b"x") * (size << 10) for size in (20_000, 300, 10_000, 2)]
del blocks[:3]
print(read_memory().anonymous_bytes - before)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc and /proc are Linux's")


def run(program: str, *arguments: str) -> int:
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_freed_memory_between_blocks_in_use_goes_back() -> None:
    assert run(_PROGRAM) > 40 << 20


def test_large_blocks_go_back_when_they_are_freed() -> None:
    assert run(_LARGE_BLOCKS, "apart") < 1 << 20
    assert run(_LARGE_BLOCKS, "together") > 20 << 20
