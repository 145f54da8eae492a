"""Runs a command under a hard limit on anonymous memory: a memory group of the kernel's where one can be made.

A group is charged for pages of files, too, unless somebody else has read them before: so the weights are read into the
page cache first, outside of the group. ``RLIMIT_DATA`` needs no rights, and counts private mappings that may be written
to whether or not they are, which is how ONNX Runtime maps weights: their size comes on top.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

_V1 = Path("/sys/fs/cgroup/memory")
_V2 = Path("/sys/fs/cgroup")


def run_in_group(
    command: Sequence[str], limit_bytes: int, files: Iterable[Path] = (), cwd: Path | None = None, given: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs ``command`` in a new memory group of at most ``limit_bytes``; killed when it wants more.

    ``files`` are read before, so that their pages are not the group's; ``given`` is standard input. OSError where no
    group can be made.
    """
    for file in files:
        _read(file)
    with _group(limit_bytes) as members:
        return _run(command, lambda: members.write_text(str(os.getpid())), cwd, given)


def run_with_data_limit(
    command: Sequence[str], limit_bytes: int, files: Iterable[Path] = ()
) -> subprocess.CompletedProcess[str]:
    """Runs ``command`` with at most ``limit_bytes`` of data, and the size of ``files``, which it maps."""
    import resource

    limit = limit_bytes + sum(file.stat().st_size for file in files)
    return _run(command, lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)))


def _run(
    command: Sequence[str], restrict: Callable[[], object], cwd: Path | None = None, given: str = ""
) -> subprocess.CompletedProcess[str]:
    """``restrict`` is called in the new process before the command."""
    return subprocess.run(
        command, preexec_fn=restrict, cwd=cwd, input=given, capture_output=True, text=True, check=False
    )


def groups_can_be_made() -> bool:
    """Whether this process may make memory groups."""
    try:
        with _group(1 << 30):
            return True
    except OSError:
        return False


def was_killed(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether the kernel ended the process."""
    return done.returncode == -signal.SIGKILL


@contextmanager
def _group(limit_bytes: int) -> Iterator[Path]:
    """A memory group while the block lasts; gives the file that a process writes its number to in order to join."""
    is_v2 = (_V2 / "cgroup.controllers").is_file()
    folder = (_V2 if is_v2 else _V1) / f"pocketspec-test-{uuid4().hex}"
    folder.mkdir()
    try:
        (folder / ("memory.max" if is_v2 else "memory.limit_in_bytes")).write_text(str(limit_bytes))
        yield folder / "cgroup.procs"
    finally:
        folder.rmdir()


def _read(file: Path) -> None:
    with file.open("rb") as opened:
        while opened.read(1 << 20):
            pass
