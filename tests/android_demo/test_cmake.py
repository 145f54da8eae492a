"""The operators for Android are built from the same sources, with the same flags, as the Python package's."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from android_demo.check.places import APP
from runtime.kernels.build import INSTRUCTION_SETS, VERSION

CMAKE = APP / "cpp" / "CMakeLists.txt"
ARM_COMPILER, ARM_EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
PROGRAM = """
#include <dlfcn.h>
#include <cstdio>
int main(int, char** words) {
  void* library = dlopen(words[1], RTLD_NOW);
  if (!library) return 1;
  puts(((const char* (*)())dlsym(library, "pocketspec_kernels"))());
}
"""


def _settings() -> dict[str, list[str]]:
    """What ``set`` gives each name, with other names in it replaced."""
    found: dict[str, list[str]] = {}
    for name, words in re.findall(r"^set\((\w+) ([^)]*)\)$", CMAKE.read_text(encoding="utf-8"), re.MULTILINE):
        found[name] = [part for word in words.split() for part in found.get(word.strip("${}"), [word])]
    return found


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_instruction_sets_and_their_flags_are_those_of_the_package(machine: str) -> None:
    settings = _settings()
    wanted = {isa.name: list(isa.flags) for isa in INSTRUCTION_SETS if isa.machine == machine}
    assert settings[f"SETS_{machine}"] == list(wanted)
    assert {name: settings[f"FLAGS_{machine}_{name}"] for name in wanted} == wanted


@pytest.mark.slow
def test_the_library_for_arm_loads_and_knows_what_a_processor_has(tmp_path: Path) -> None:
    missing = [tool for tool in ("cmake", "ninja", ARM_COMPILER, ARM_EMULATOR) if not shutil.which(tool)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    (tmp_path / "program.cpp").write_text(PROGRAM)
    target = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={ARM_COMPILER}"]
    build, program = tmp_path / "build", tmp_path / "program"
    for command in (
        ["cmake", "-G", "Ninja", "-S", CMAKE.parent, "-B", build, "-DCMAKE_BUILD_TYPE=Release", *target],
        ["cmake", "--build", build],
        [ARM_COMPILER, tmp_path / "program.cpp", "-o", program, "-ldl"],
    ):
        subprocess.run(command, check=True, capture_output=True)
    for processor, usable in (("max", 3), ("cortex-a76", 2), ("cortex-a57", 1)):
        emulator = [ARM_EMULATOR, "-L", "/usr/aarch64-linux-gnu", "-cpu", processor]
        done = subprocess.run([*emulator, program, build / "libpocketspec.so"], check=True, capture_output=True)
        described = json.loads(done.stdout)
        assert described["version"] == VERSION
        assert described["usable"] == ["neon_i8mm", "neon_dot", "portable"][-usable:]
