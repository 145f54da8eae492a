"""Whatever happens while a session is saved, its file is the old one or the new one."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from export.untrusted import UntrustedError
from runtime.sessions.errors import SessionError
from runtime.sessions.tensor_file import open_tensors, write_tensors
from tests.places import ROOT

LIMIT_SECONDS = 60  # a hang is a failure
SIZE = 1 << 20
# Saves the numbers 0, 1, 2, ... one after another, each in a file that says which number it is full of.
SAVE_FOR_EVER = f"""
import itertools, sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
import numpy as np
from runtime.sessions.tensor_file import write_tensors
for number in itertools.count():
    write_tensors(Path(sys.argv[1]), {{"number": str(number)}}, [("a", np.full({SIZE}, number, np.int32))])
"""
FILL_THE_DISK = """
import resource, sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
import numpy as np
from runtime.sessions.errors import SessionError
from runtime.sessions.tensor_file import write_tensors
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))
try:
    write_tensors(Path(sys.argv[1]), {}, [("a", np.zeros(1 << 20, np.int32))])
except SessionError as error:
    print(error)
"""


def write(path: Path, number: int) -> None:
    write_tensors(path, {"number": str(number)}, [("a", np.full(SIZE, number, np.int32))])


def read(path: Path) -> int:
    """The number that the whole file is full of."""
    place = np.empty(SIZE, np.int32)
    with open_tensors(path) as file:
        file.read({"a": place})
        number = int(file.metadata["number"])
    assert (place == number).all()
    return number


@contextmanager
def saving(program: str, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs ``program`` on ``path``, and is killed at the end of the context, whatever happens in it."""
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait(LIMIT_SECONDS)


def test_a_file_that_was_written_is_read(tmp_path: Path) -> None:
    write(tmp_path / "session", 3)
    assert read(tmp_path / "session") == 3


@pytest.mark.parametrize("kills", [4, pytest.param(200, marks=pytest.mark.slow)])
def test_a_killed_save_leaves_the_old_or_the_new_file(tmp_path: Path, kills: int) -> None:
    path = tmp_path / "session"
    for kill in range(kills):
        write(path, -2)
        with saving(SAVE_FOR_EVER, path):
            end = time.monotonic() + LIMIT_SECONDS
            while read(path) == -2:
                assert time.monotonic() < end
            time.sleep(kill % 7 * 0.003)
        assert read(path) >= 0
    write(path, 7)
    assert read(path) == 7


@pytest.mark.skipif(importlib.util.find_spec("resource") is None, reason="this system has no limits of file sizes")
def test_a_full_disk_leaves_the_old_file_and_one_line(tmp_path: Path) -> None:
    path = tmp_path / "session"
    write(path, 1)
    command = [sys.executable, "-c", FILL_THE_DISK, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=True)
    assert done.stdout.startswith(f"cannot save the session to {path}: ")
    assert done.stdout.count("\n") == 1
    assert read(path) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["session"], "a part was left behind"


def test_what_a_killed_save_left_is_removed_later(tmp_path: Path) -> None:
    left, young, others = (tmp_path / name for name in ("session.1-0.part", "session.2-0.part", "other.1-0.part"))
    for path in (left, young, others):
        path.write_bytes(b"half")
    for path in (left, others):
        os.utime(path, (0, 0))
    write(tmp_path / "session", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.1-0.part", "session", "session.2-0.part"]


def test_places_where_nothing_can_be_saved_are_said(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name, words in {"none/session": "no folder", "folder": "is a folder", "link": "is a link"}.items():
        with pytest.raises(SessionError, match=words):
            write(tmp_path / name, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link"]


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"])
def test_what_can_be_no_name_is_said(tmp_path: Path, name: str) -> None:
    with pytest.raises(SessionError, match="cannot save the session"):
        write(tmp_path / name, 1)
    with pytest.raises(UntrustedError, match="cannot be read"), open_tensors(tmp_path / name):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="signals of other systems")
def test_an_interrupted_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "session"
    write(path, 1)
    program = SAVE_FOR_EVER.replace("count()", "repeat(5)")
    with saving(program, path) as process:
        end = time.monotonic() + LIMIT_SECONDS
        while read(path) == 1:
            assert time.monotonic() < end
        process.send_signal(signal.SIGINT)
        process.wait(LIMIT_SECONDS)
    assert read(path) == 5
    assert [each.name for each in tmp_path.iterdir()] == ["session"]
