"""One export at a time to one place, and no trace of the lock."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from export.bundle import export_bundle
from export.report import SilentReporter
from export.request import ExportRequest
from export.writer import lock
from export.writer.lock import LockError, locked
from tests.conftest import TinyModels
from tests.places import ROOT


def never(line: str) -> None:
    raise AssertionError(line)


def test_nothing_stays_of_a_lock(tmp_path: Path) -> None:
    with locked(tmp_path / "new" / "folder" / "out", never):
        assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == [".out.lock"]
    assert list(tmp_path.iterdir()) == []


def test_what_was_written_beside_it_stays(tmp_path: Path) -> None:
    with locked(tmp_path / "new" / "out", never):
        (tmp_path / "new" / "out").mkdir()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


def test_other_places_are_free(tmp_path: Path) -> None:
    with locked(tmp_path / "one", never), locked(tmp_path / "other", never):
        pass


def test_many_take_turns(tmp_path: Path) -> None:
    inside, most, notes = 0, 0, list[str]()
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        for _ in range(3):
            with locked(tmp_path / "out", notes.append):
                with guard:
                    inside += 1
                    most = max(most, inside)
                with guard:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (inside, most) == (0, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, time; from export.writer.lock import locked\n"
        "with locked(pathlib.Path(sys.argv[1]), print):\n    print('locked', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "out")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"

    def kill(line: str) -> None:
        assert line == f"another export to {tmp_path / 'out'} is running; waiting until it ends"
        process.kill()

    with process, locked(tmp_path / "out", kill):
        assert process.wait(10) != 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("lowered_once")
def test_an_export_waits_for_another_one(tiny_models: TinyModels, tmp_path: Path) -> None:
    request = ExportRequest(str(tiny_models.target), tmp_path / "out", weights="fp32", drafters=())
    locks: list[threading.Event] = [threading.Event(), threading.Event()]

    class Recorder(SilentReporter):
        waited = False

        def note(self, text: str) -> None:
            assert text == f"another export to {tmp_path / 'out'} is running; waiting until it ends"
            self.waited = True
            locks[1].set()

    def hold() -> None:
        with locked(tmp_path / "out", never):
            locks[0].set()
            locks[1].wait(60)

    first, second = threading.Thread(target=hold), Recorder()
    first.start()
    assert locks[0].wait(120)
    export_bundle(request, second)
    first.join()
    assert second.waited
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_file_system_without_locks_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*given: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path / "out", never):
        pass


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(lock, "_acquire", refuse)
    with (
        pytest.raises(LockError, match=r"cannot write to .* \(Permission denied\); give another --output"),
        locked(tmp_path / "out", never),
    ):
        pass
