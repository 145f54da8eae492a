"""Where the demo's sources, tools and outputs lie."""

from __future__ import annotations

import os
from pathlib import Path

DEMO = Path(__file__).resolve().parents[1]
ROOT = DEMO.parent
HERE = DEMO / "check"
ENGINE = DEMO / "engine" / "src"
APP = DEMO / "app" / "src" / "main"
# Ignored by git, as every folder of this name.
BUILD = DEMO / "build"
TOOLS = BUILD / "tools"
VARIABLE = "POCKETSPEC_ANDROID_TOOLS"


def tool_folders() -> tuple[Path, ...]:
    """Folders in which tools are looked for, in this order: fetched here, named by the user, beside the checkout."""
    named = [Path(part) for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    return (TOOLS, *named, ROOT.parent / "shared" / "android")
