"""Runs the commands of the chain; a step whose inputs and command are those of its last success is not run again."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path


class StepError(Exception):
    """A command that failed; the message has the command's program and what it printed."""


def run(command: Sequence[object], *, cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    """What the command prints; StepError with it if the command fails."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise StepError(f"{Path(words[0]).name} ended with code {done.returncode}\n{done.stdout.rstrip()}")
    return done.stdout


def files_below(*places: Path, suffixes: tuple[str, ...] = ()) -> list[Path]:
    """The files in ``places``, in one order everywhere; with ``suffixes`` those alone."""
    found = [file for place in places for file in ([place] if place.is_file() else place.rglob("*"))]
    return sorted(file for file in found if file.is_file() and (not suffixes or file.suffix in suffixes))


def build(output: Path, inputs: Iterable[Path], settings: Iterable[object], make: Callable[[Path], None]) -> bool:
    """Makes the folder ``output`` with ``make(folder)``, unless it was made from the same ``inputs`` and ``settings``.

    ``make`` gets an empty folder, which takes the place of ``output`` when it is complete. Returns whether it ran.
    """
    wanted = fingerprint(inputs, settings)
    if _has(output, wanted):
        return False
    stamp = _stamp(output)
    stamp.unlink(missing_ok=True)
    work = output.with_name(output.name + ".work")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    make(work)
    shutil.rmtree(output, ignore_errors=True)
    work.rename(output)
    stamp.write_text(wanted, encoding="utf-8")
    return True


def is_current(output: Path, inputs: Iterable[Path], settings: Iterable[object]) -> bool:
    """Whether ``build`` would not make ``output`` again."""
    return _has(output, fingerprint(inputs, settings))


def _has(output: Path, wanted: str) -> bool:
    stamp = _stamp(output)
    return output.is_dir() and stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted


def _stamp(output: Path) -> Path:
    return output.with_name(output.name + ".stamp")


def fingerprint(inputs: Iterable[Path], settings: Iterable[object]) -> str:
    """A hash of names, contents and settings. Of a folder among the inputs, all files count."""
    total = hashlib.sha256()
    for setting in settings:
        total.update(f"{setting}\0".encode())
    for file in files_below(*inputs):
        total.update(f"{file}\0{_digest(file)}\0".encode())
    return total.hexdigest()


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
