"""Standard streams: closed, full, without a reader, of a poor encoding. Never a traceback, never a lost answer."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from memory.command_line import run_program
from memory.streams import OutputError, discard_output, safe_streams, shows_everything
from tests.places import ROOT

FULL = Path("/dev/full")


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A line for the shell, in which PY is this Python."""
    variables = {"PATH": "/usr/bin:/bin", "PY": sys.executable, **environment}
    return subprocess.run(["sh", "-c", line], cwd=ROOT, env=variables, capture_output=True, timeout=120)


def says(text: str) -> str:
    program = (
        f"import sys; from memory.command_line import run_program; sys.exit(run_program(lambda: print({text!a}) or 0))"
    )
    return f'"$PY" -c "{program}"'


@pytest.mark.parametrize(
    ("encoding", "shown"), [("utf-8", "é🙂"), ("latin-1", "é?"), ("cp1252", "é?"), ("cp437", "é?"), ("ascii", "??")]
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_characters_that_an_encoding_lacks_become_question_marks(encoding: str, shown: str, unbuffered: str) -> None:
    done = shell(says("é🙂"), PYTHONIOENCODING=encoding, PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode(encoding).split() == [shown]


@pytest.mark.skipif(sys.platform == "win32", reason="the shell's way to close streams")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_errors(closed: str) -> None:
    done = shell(f"{says('text')} {closed}")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == (b"" if ">&-" in closed.split() else b"text\n")


@pytest.mark.skipif(sys.platform == "win32", reason="the shell's way to close streams")
def test_no_other_file_gets_the_number_of_a_closed_stream() -> None:
    program = (
        "import sys; from memory.streams import safe_streams;"
        " context = safe_streams(); context.__enter__(); number = open('pyproject.toml').fileno();"
        " sys.exit(0 if number > 2 else 1)"
    )
    assert shell(f'"$PY" -c "{program}" <&- >&- 2>&-').returncode == 0


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("program", [says("text"), '"$PY" -m runtime --help', '"$PY" -m export --help'])
def test_a_full_disk_behind_the_output_is_one_line(program: str, unbuffered: str) -> None:
    done = shell(f"{program} > /dev/full", PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [b"error: cannot write to standard output: No space left on device"]


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_notes_that_cannot_be_written_are_lost_alone() -> None:
    program = (
        "import sys; from memory.command_line import run_program;"
        " run = lambda: print('a note', file=sys.stderr) or print('text') or print('another', file=sys.stderr) or 0;"
        " sys.exit(run_program(run))"
    )
    done = shell(f'"$PY" -c "{program}" 2> /dev/full')
    assert (done.returncode, done.stdout) == (0, b"text\n")


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe of the shell")
def test_a_reader_that_went_away_ends_the_program_quietly() -> None:
    endless = (
        "import sys; from memory.command_line import run_program;"
        " sys.exit(run_program(lambda: [print('y' * 999) for _ in range(9999)] and 0))"
    )
    done = shell(f'( "$PY" -c "{endless}"; echo $? >&2 ) | head -c 1')
    assert (done.stdout, done.stderr) == (b"y", b"141\n")


def test_streams_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = io.StringIO(), io.StringIO(), io.StringIO()
    for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
        monkeypatch.setattr(sys, name, stream)
    assert run_program(lambda: print("text") or 3) == 3  # type: ignore[func-returns-value]
    assert (sys.stdin, sys.stdout, sys.stderr) == streams
    assert streams[1].getvalue() == "text\n"


def test_what_failed_once_fails_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    with safe_streams():
        for use in (lambda: print("text"), lambda: sys.stdout.flush()):
            with pytest.raises(OutputError, match="cannot write to standard output: No space left on device"):
                use()
        discard_output()


def test_encodings_with_every_character() -> None:
    for encoding, expected in (("utf-8", True), ("UTF8", True), ("utf-16", True), ("cp1252", False), ("ascii", False)):
        assert shows_everything(io.TextIOWrapper(io.BytesIO(), encoding=encoding)) == expected
