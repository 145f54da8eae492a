"""The library beside every ONNX Runtime it should run with, each from the package index into a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import ROOT

# The last of every series since the oldest that pyproject.toml allows, and the newest when this was written.
VERSIONS = ("1.23.2", "1.24.4", "1.25.1", "1.26.0", "1.27.0", "1.28.0", "1.29.0", "1.30.0", "1.31.1")
# Older than allowed: the oldest with all functions the library needs, and one that lacks some.
OLDER = {"1.18.1": True, "1.17.3": False}
# Both were built for it.
NUMPY_1 = "numpy==1.26.4"


def judge_with(version: str, folder: Path, library: Path, *others: str) -> dict[str, str | None]:
    """The self-test's verdict with ``version``; skips where it cannot be installed."""
    package = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run(
        [*package, "--target", str(folder), f"onnxruntime=={version}", *others],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"onnxruntime {version} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    program = (
        "import sys, onnxruntime\nfrom pathlib import Path\nfrom runtime.kernels.library import judge\n"
        f"assert onnxruntime.__version__ == {version!r}, onnxruntime.__file__\n"
        "import json, dataclasses\nprint(json.dumps(dataclasses.asdict(judge(Path(sys.argv[1])))))"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, str(library)], env=environment, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    verdict: dict[str, str | None] = json.loads(told.stdout)
    return verdict


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_every_allowed_version_passes_the_self_test(version: str, native_library: Path, tmp_path: Path) -> None:
    assert judge_with(version, tmp_path / "packages", native_library)["fault"] is None


@pytest.mark.slow
@pytest.mark.parametrize("version", OLDER)
def test_older_versions_give_right_numbers_or_a_reason(version: str, native_library: Path, tmp_path: Path) -> None:
    fault = judge_with(version, tmp_path / "packages", native_library, NUMPY_1)["fault"]
    assert (fault is None) == OLDER[version], fault
    assert fault is None or "\n" not in fault
