"""The header of every page of measurements: the command, the machine, the versions, and the day."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

# The packages that measurements of the runtime depend on.
RUNTIME_PACKAGES = ("pocketspec", "onnxruntime", "numpy")


def this_command(package: str) -> str:
    """The command line of this process, ``python -m package ...``, for a POSIX shell."""
    return f"python -m {package} {shlex.join(sys.argv[1:])}"


def measured_on(packages: Sequence[str] = RUNTIME_PACKAGES) -> str:
    """Processor, system, versions of Python and of ``packages``, and today's date (ISO 8601), in one line."""
    found = ", ".join(f"{name} {version}" for name, version in versions(packages).items())
    return f"{describe_device()}; {found}; {date.today().isoformat()}"


def describe_device() -> str:
    """The processor, how many the system has of it, the operating system and the architecture."""
    return f"{processor_name()}, {os.cpu_count()} processors, {platform.system()} {platform.machine()}"


def processor_name() -> str:
    """The name of the processor, as the system has it."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return name
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)


def versions(packages: Sequence[str] = RUNTIME_PACKAGES) -> dict[str, str]:
    """The versions of Python and of the installed ``packages``, by name."""
    from importlib import metadata  # it loads much, and every command imports this module

    found = {"Python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # run from a checkout, or with another build of the package
            found[name] = "(not installed as a package)"
    return found
