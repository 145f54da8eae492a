"""The operators' own test program under sanitizers: no bad access, no undefined behaviour, no race, and equal bits."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from runtime.kernels.build import SOURCES, BuildError, build

PROGRAM = sorted((SOURCES / "testing").glob("*.cpp"))
# With the optimization that makes compiling and running shortest together.
SANITIZERS = {"address and undefined": ("address,undefined", "-O0"), "thread": ("thread", "-O1")}
WARNINGS = ("-Wall", "-Wextra", "-Werror")


@pytest.mark.slow
@pytest.mark.parametrize(("sanitizer", "optimization"), SANITIZERS.values(), ids=SANITIZERS)
def test_the_operators_run_clean(compiler: str, sanitizer: str, optimization: str, tmp_path: Path) -> None:
    flags = (f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-g1")
    _skip_unless_it_runs(tmp_path, flags)
    build(tmp_path / "test", program=PROGRAM, flags=[*flags, *WARNINGS, optimization])
    done = subprocess.run([tmp_path / "test"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0][0] == "portable"
    assert len({line[-1] for line in lines}) == 1, done.stdout


def _skip_unless_it_runs(folder: Path, flags: tuple[str, ...]) -> None:
    """Not every compiler has the sanitizers' libraries, and not every kernel lets them map their memory."""
    sources, program = folder / "sources", folder / "main.cpp"
    sources.mkdir()
    (sources / "nothing.cpp").touch()
    program.write_text("int main() { return 0; }\n")
    try:
        build(folder / "try", sources=sources, program=[program], flags=flags)
    except BuildError as error:
        pytest.skip(f"no program with {flags[0]}: {error}")
    if subprocess.run([folder / "try"], capture_output=True, check=False).returncode != 0:
        pytest.skip(f"a program with {flags[0]} does not run here")
