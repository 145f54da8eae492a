"""The server with a watch on its event loop: ``python -m tests.runtime.server.watched FILE BUNDLE ...``.

A callback that is due every millisecond notes how late it comes, and what the loop's thread did meanwhile: its own work
(processor time), or being ready while others had the processors (``/proc``, Linux alone), or neither, which is waiting
for the interpreter's lock. FILE gets all of it as JSON lines when the server ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtime.__main__ import main as run_command
from runtime.server import listening

PERIOD = 0.001


@dataclass(frozen=True)
class Tick:
    """One tick of the watch, at ``time`` of the monotonic clock; all others are milliseconds.

    ``late``: more than a period after the tick before. Meanwhile the thread computed for ``own``, waited ``queued`` for
    a processor and ``locked`` for the interpreter.
    """

    time: float
    late: float
    own: float
    queued: float

    @property
    def locked(self) -> float:
        return max(self.late - self.own - self.queued, 0.0)


def read_ticks(path: Path) -> list[Tick]:
    """The ticks in a file of this program."""
    return [Tick(**json.loads(line)) for line in path.read_text().splitlines()]


async def watch(ticks: list[Tick]) -> None:
    """Adds a tick every millisecond, for ever."""
    before = _clocks()
    while True:
        await asyncio.sleep(PERIOD)
        now = _clocks()
        wall, own, queued = (new - old for new, old in zip(now, before, strict=True))
        ticks.append(Tick(now[0], (wall - PERIOD) * 1e3, own * 1e3, queued * 1e3))
        before = now


def _clocks() -> tuple[float, float, float]:
    """Seconds: of the clock, of this thread's own work, and of its waits for a processor."""
    schedule = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
    queued = int(schedule.read_text().split()[1]) / 1e9 if schedule.exists() else 0.0
    return time.monotonic(), time.thread_time(), queued


class _Watched(listening._Server):
    """The server, with a watch that writes to ``file`` at the end."""

    file = Path()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self._ticks: list[Tick] = []
        self._watch = asyncio.create_task(watch(self._ticks))

    async def shutdown(self, sockets: Any = None) -> None:
        self._watch.cancel()
        self.file.write_text("".join(json.dumps(asdict(tick)) + "\n" for tick in self._ticks))
        await super().shutdown(sockets)


if __name__ == "__main__":
    _Watched.file = Path(sys.argv[1])
    listening._Server = _Watched  # type: ignore[misc]
    sys.exit(run_command(["serve", *sys.argv[2:]]))
