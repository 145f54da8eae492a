"""Free pages of the heap go back to the system, in a process of its own whose heap nobody else disturbs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Small blocks below ones that stay: glibc keeps the pages between them until it is asked.
_PROGRAM = """
from runtime.heap import give_back

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


@pytest.mark.skipif(sys.platform != "linux", reason="glibc and /proc are Linux's")
def test_freed_memory_between_blocks_in_use_goes_back() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40 << 20
