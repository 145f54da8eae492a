"""Processes of our own import what is installed, whatever lies in the folder they start in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from memory.child import command, environment
from tests.places import ROOT

NAMES = ("json", "numpy", "onnxruntime", "pickle", "sitecustomize", "subprocess")


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: with modules in it that must not be imported, and named in all the ways there are."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the current folder')\n")
    for name in ("export", "memory", "runtime"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('imported from the current folder')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", ".", str(tmp_path), *sys.path])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", ".", str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    return tmp_path


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = command(module, *arguments)
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment())


@pytest.mark.parametrize("module", ["runtime", "memory", "export"])
def test_nothing_of_the_current_folder_is_imported(trap: Path, module: str) -> None:
    done = run(module, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: python -m {module}")


def test_numpy_and_onnx_runtime_are_the_installed_ones(trap: Path) -> None:
    done = run("runtime.kernels.selftest.run", str(trap / "nothing.so"))
    assert done.returncode == 0, done.stderr
    assert "nothing.so: cannot open" in done.stdout


def test_places_that_this_process_knows_stay_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other versions of a package in a folder of their own, as tests have them."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lantern.py").write_text(f"print('{name}')\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "second"), str(tmp_path / "first"), *sys.path])
    assert run("lantern").stdout == "second\n"


def test_a_removed_folder_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    try:
        (tmp_path / "gone").rmdir()
    except OSError:
        pytest.skip("this system keeps a folder that is somebody's current one")
    assert run("memory", "--help").returncode == 0


def test_every_process_is_started_in_this_way() -> None:
    """One module names the interpreter; multiprocessing would start others with the current folder in their path."""
    for package in ("export", "memory", "runtime"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert path == ROOT / "memory" / "child.py" or "sys.executable" not in text, path
            assert "import multiprocessing" not in text, path
            assert "from multiprocessing" not in text, path
