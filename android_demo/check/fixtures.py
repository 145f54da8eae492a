"""Has Python write what the engine's tests compare with: each module writes a folder of ``build/fixtures``."""

from __future__ import annotations

import importlib.util
import sys

from android_demo.check.places import BUILD, DEMO, HERE, ROOT
from android_demo.check.steps import files_below, fingerprint, run

FOLDER = BUILD / "fixtures"
# Modules, with the options for few cases and for many: texts of each tokenizer, requests for plans, golden steps.
MODULES = {
    "tests.android_demo.fixtures": ([], ["--texts", "2000", "--conversations", "40"]),
    "tests.android_demo.model_fixtures": (["--count", "100"], ["--count", "1000"]),
    "tests.android_demo.golden": ([], ["--demo"]),
}
_SOURCES = [ROOT / "export", ROOT / "memory", ROOT / "runtime", HERE, ROOT / "tests" / "android_demo"]


def write_fixtures(many: bool) -> int:
    """Runs the modules whose results may be others than last time; returns how many."""
    inputs = [*files_below(*_SOURCES, suffixes=(".py",)), *ROOT.glob("bundles/*/pocketspec.json")]
    written = 0
    for module in filter(importlib.util.find_spec, MODULES):
        options = MODULES[module][many]
        state = fingerprint(inputs, options)
        stamp = FOLDER / f"{module}.stamp"
        if stamp.is_file() and stamp.read_text(encoding="utf-8") == state:
            continue
        print(f"writing fixtures: {module}", flush=True)
        run([sys.executable, "-m", module, *options], cwd=DEMO.parent)
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(state, encoding="utf-8")
        written += 1
    return written
