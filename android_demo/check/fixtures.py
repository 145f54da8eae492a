"""Has Python write what the engine's tests compare with: each module writes a folder of ``build/fixtures``."""

from __future__ import annotations

import importlib.util
import sys

from android_demo.check.places import BUILD, DEMO, HERE, ROOT
from android_demo.check.steps import files_below, fingerprint, run

FOLDER = BUILD / "fixtures"
# python -m MODULE; those of the tests make models on the spot.
MODULES = ("tests.android_demo.fixtures", "tests.android_demo.model_fixtures")
_SOURCES = [ROOT / "export", ROOT / "memory", ROOT / "runtime", HERE, ROOT / "tests" / "android_demo"]


def write_fixtures() -> int:
    """Runs the modules whose results may be others than last time; returns how many."""
    state = fingerprint([*files_below(*_SOURCES, suffixes=(".py",)), *ROOT.glob("bundles/*/pocketspec.json")], [])
    written = 0
    for module in filter(importlib.util.find_spec, MODULES):
        stamp = FOLDER / f"{module}.stamp"
        if stamp.is_file() and stamp.read_text(encoding="utf-8") == state:
            continue
        print(f"writing fixtures: {module}", flush=True)
        run([sys.executable, "-m", module], cwd=DEMO.parent)
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(state, encoding="utf-8")
        written += 1
    return written
