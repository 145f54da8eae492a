"""The two commands of the README, with a Python that only shows what it is asked to run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from runtime.kernels.build import LIBRARY
from tests.places import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None or os.name != "posix", reason="no make and shell here")
GATE = [
    ["-m", "ruff", "format", "--check", "."],
    ["-m", "ruff", "check", "."],
    ["-m", "mypy"],
    ["-m", "pytest", "-n", "auto", "--maxprocesses", "8", "--dist", "loadfile", "--assert", "plain"],
]
AGAIN = ["-m", "pytest", "--last-failed"]
needs_library = pytest.mark.skipif(not LIBRARY.is_file(), reason="the native kernels are not built")


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A complete virtual environment whose Python shows its arguments, and ends with 1 for the command in "failing"."""
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text(
        '#!/bin/sh\nprintf "%s\\0" "$@"\nprintf "\\n\\0"\n[ "$3" != "$(cat "$(dirname "$0")/../failing")" ]\n'
    )
    python.chmod(0o755)
    for name in ("installed", "kernels"):
        (tmp_path / name).touch()
    (tmp_path / "failing").write_text("nothing")
    return tmp_path


def run(environment: Path, *command: str) -> tuple[int, list[list[str]], str]:
    """Exit code, the arguments of every Python that was started, and standard error."""
    variables = {**os.environ, "VENV": str(environment), "MAKEFLAGS": "s"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=variables)
    calls = [call.rstrip("\0").split("\0") for call in done.stdout.split("\n\0") if call.strip("\0\n")]
    return done.returncode, calls, done.stderr


def shown(environment: Path, *arguments: str) -> list[list[str]]:
    """The arguments of every Python that ``make`` starts."""
    code, calls, errors = run(environment, "make", f"VENV={environment}", *arguments)
    assert (code, errors) == (0, "")
    return calls


def test_the_prompt_of_the_demo_arrives_whole(environment: Path) -> None:
    export, compare = shown(environment, "demo", "BUNDLE=/nowhere/demo")
    assert export[:2] == ["-m", "export"]
    assert compare[-1] == "Write a bedtime story called `The Lantern and the Lost Star`."


@pytest.mark.parametrize("prompt", ['It\'s `true`; "no" > file', "--dashes", "two  spaces"])
def test_any_prompt_arrives_as_it_was_given(environment: Path, prompt: str) -> None:
    assert shown(environment, "demo", "BUNDLE=/nowhere/demo", f"PROMPT={prompt}")[-1][-1] == prompt


@pytest.mark.parametrize("name", ["check", "test"])
def test_the_gate_is_run_by_the_environment(environment: Path, name: str) -> None:
    assert shown(environment, name) == GATE


def test_the_gate_ends_at_the_first_that_fails(environment: Path) -> None:
    (environment / "failing").write_text("check")
    code, calls, _ = run(environment, "make", f"VENV={environment}", "check")
    assert code != 0
    assert calls == GATE[:2]


def test_what_has_failed_runs_again_and_shows_its_values(environment: Path) -> None:
    (environment / "failing").write_text("-n")
    code, calls, _ = run(environment, "make", f"VENV={environment}", "check")
    assert code != 0
    assert calls == [*GATE, AGAIN]


def test_what_the_gate_leaves_out_has_a_command(environment: Path) -> None:
    assert shown(environment, "slow") == [["-m", "pytest", "-m", "slow"]]
    assert shown(environment, "android") == [["-m", "android_demo.check"]]


@needs_library
def test_integration_tells_the_machine_and_checks_the_kernels_before_the_tests(environment: Path) -> None:
    code, calls, _ = run(environment, str(ROOT / ".ci" / "run"))
    assert code == 0
    assert [call[1:3] for call in calls[:2]] == [["runtime", "doctor"], ["runtime", "kernels"]]
    assert calls[2:] == GATE


@needs_library
def test_integration_fails_where_kernels_were_built_and_are_not_used(environment: Path) -> None:
    (environment / "failing").write_text("kernels")
    code, calls, errors = run(environment, str(ROOT / ".ci" / "run"))
    assert code == 1
    assert calls[-1][2] == "kernels"
    assert "error: the native kernels were built and are not used" in errors


def test_integration_does_not_fail_for_what_the_doctor_advises(environment: Path) -> None:
    (environment / "failing").write_text("doctor")
    assert run(environment, str(ROOT / ".ci" / "run"))[0] == 0
