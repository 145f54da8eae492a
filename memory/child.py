"""Python processes of our own: they import the project and what is installed, nothing from the current folder.

The current folder may hold a ``runtime``, a ``json.py`` or a ``numpy.py`` of somebody else. Python would import them,
because it looks there first, and because an empty entry of ``PYTHONPATH`` means that folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("export", "memory", "runtime")

# The packages of the project come from where this process has them, even if others have their names.
_START = """
import json, sys
from importlib.machinery import PathFinder
root, packages, places, module = json.loads(sys.argv.pop(1))
class Own:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [root]) if name in packages else None
sys.meta_path.insert(0, Own)
sys.path[:] = [*places, *(place for place in sys.path if place not in places)]
import runpy
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def run_module(
    module: str, *arguments: str, given: str | None = None, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs ``python -m module arguments`` to its end, with ``given`` on its standard input; output is kept as text.

    OSError if it cannot be started, ``subprocess.TimeoutExpired`` if it takes longer than ``timeout`` seconds.
    """
    words = command(module, *arguments)
    return subprocess.run(
        words, input=given, capture_output=True, text=True, check=False, env=environment(), timeout=timeout
    )


def crash_of(done: subprocess.CompletedProcess[str]) -> str | None:
    """How a process ended that should have ended with 0; None if it did."""
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return f"it crashed with signal {-done.returncode}"
    lines = done.stderr.strip().splitlines()
    return f"it ended with code {done.returncode}: {lines[-1] if lines else 'no message'}"


def command(module: str, *arguments: str) -> list[str]:
    """The command line of ``python -m module arguments``; start it with ``environment()``."""
    settings = json.dumps([str(_ROOT), _PACKAGES, _elsewhere(sys.path), module])
    return [sys.executable, "-P", "-c", _START, settings, *arguments]


def environment() -> dict[str, str]:
    """The environment of this process, with a PYTHONPATH that does not lead to the current folder."""
    places = _elsewhere(os.environ.get("PYTHONPATH", "").split(os.pathsep))
    others = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**others, "PYTHONPATH": os.pathsep.join(places)} if places else others


def _elsewhere(places: Sequence[str]) -> list[str]:
    """``places`` without the current folder, and without relative ones, which lie in it."""
    try:
        here = os.path.realpath(os.getcwd())
    except OSError:  # it was removed
        here = ""
    return [place for place in places if os.path.isabs(place) and os.path.realpath(place) != here]
