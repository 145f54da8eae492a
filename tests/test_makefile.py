"""The two commands of the README, with a Python that only shows what it is asked to run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None or os.name != "posix", reason="no make and shell here")


def shown(tmp_path: Path, *arguments: str) -> list[list[str]]:
    """The arguments of every Python that ``make`` starts in an environment that is complete already."""
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\nprintf "\\n\\0"\n')
    python.chmod(0o755)
    for name in ("installed", "kernels"):
        (tmp_path / name).touch()
    done = subprocess.run(
        ["make", "--silent", "-C", str(ROOT), f"VENV={tmp_path}", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    calls = done.stdout.split("\n\0")
    return [call.rstrip("\0").split("\0") for call in calls if call.strip("\0\n")]


def test_the_prompt_of_the_demo_arrives_whole(tmp_path: Path) -> None:
    export, compare = shown(tmp_path, "demo", "BUNDLE=/nowhere/demo")
    assert export[:2] == ["-m", "export"]
    assert compare[-1] == "Write a bedtime story called `The Lantern and the Lost Star`."


@pytest.mark.parametrize("prompt", ['It\'s `true`; "no" > file', "--dashes", "two  spaces"])
def test_any_prompt_arrives_as_it_was_given(tmp_path: Path, prompt: str) -> None:
    assert shown(tmp_path, "demo", "BUNDLE=/nowhere/demo", f"PROMPT={prompt}")[-1][-1] == prompt


def test_the_tests_are_run_by_the_environment(tmp_path: Path) -> None:
    assert shown(tmp_path, "test")[-1] == ["-m", "pytest"]
