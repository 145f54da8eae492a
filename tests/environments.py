"""Virtual environments with other versions of some packages, everything else as it is here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.places import ROOT

_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9-]+)>=(?P<oldest>[0-9.]+)(?:,<(?P<end>[0-9.]+))?")


@dataclass(frozen=True)
class Requirement:
    """A package and the versions from ``oldest`` up to below ``end`` that pyproject.toml allows."""

    name: str
    oldest: str
    end: str | None

    def __str__(self) -> str:
        return f"{self.name}>={self.oldest}" + (f",<{self.end}" if self.end else "")


def requirements(extra: str | None = None) -> list[Requirement]:
    """What pyproject.toml requires to run, or for ``extra``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    found = [_REQUIREMENT.fullmatch(text) for text in texts]
    assert all(found), texts
    return [Requirement(**match.groupdict()) for match in found if match]


@dataclass(frozen=True)
class Environment:
    """A virtual environment. ``cache`` holds what is found out about this device with its packages."""

    folder: Path

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs its Python to the end."""
        binaries = "Scripts" if os.name == "nt" else "bin"
        environment = {**os.environ, "POCKETSPEC_CACHE": str(self.folder / "cache")}
        environment.pop("PYTHONPATH", None)
        return subprocess.run(
            [str(self.folder / binaries / "python"), *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            env=environment,
        )

    def version(self, package: str) -> str:
        """The version of ``package`` in it."""
        return self.python("-c", f"from importlib.metadata import version; print(version({package!r}))").stdout.strip()


def make_environment(folder: Path, *packages: str) -> Environment:
    """An environment with ``packages`` from the package index; skips where they cannot be had."""
    venv.create(folder, with_pip=False)
    made = Environment(folder)
    shared = [str(ROOT), *(place for place in sys.path if Path(place).name in ("site-packages", "dist-packages"))]
    own = made.python("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
    Path(own, "shared.pth").write_text("\n".join(shared) + "\n")
    done = made.python("-m", "pip", "install", "--quiet", "--only-binary", ":all:", "--no-warn-conflicts", *packages)
    if done.returncode != 0:
        pytest.skip(f"{' '.join(packages)} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    return made
