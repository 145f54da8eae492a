"""Building: what is compiled for which machine, and that nothing half-made is ever left."""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.kernels.build import INSTRUCTION_SETS, LIBRARY_NAME, BuildError, build, find_compiler
from tests.places import ROOT

MAIN = """
#include "told.h"
extern "C" __attribute__((visibility("default"))) const char* told() {
  return ""
#define SAY(NAME) #NAME " "
#ifdef POCKETSPEC_HAS_AVX2
  SAY(AVX2)
#endif
#ifdef POCKETSPEC_HAS_AVXVNNI
  SAY(AVXVNNI)
#endif
#ifdef POCKETSPEC_HAS_PORTABLE
  SAY(PORTABLE)
#endif
  POCKETSPEC_VERSION;
}
"""
# The flags themselves are tested: a file that was compiled without its own does not compile.
NEEDS = {
    "avx2": "__AVX2__",
    "avxvnni": "__AVXVNNI__",
    "neon_dot": "__ARM_FEATURE_DOTPROD",
    "portable": "__cplusplus",
}


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "native"
    folder.mkdir()
    (folder / "main.cpp").write_text(MAIN)
    (folder / "told.h").touch()
    for name, macro in NEEDS.items():
        (folder / f"isa_{name}.cpp").write_text(f"#ifndef {macro}\n#error not for {name}\n#endif\n")
    return folder


def told(library: Path) -> list[str]:
    function = ctypes.CDLL(str(library)).told
    function.restype = ctypes.c_char_p
    return [word.lower() for word in bytes(function()).decode().split()[:-1]]


def fake_compiler(folder: Path, script: str) -> str:
    path = folder / "compiler"
    path.write_text(f"#!{sys.executable}\nimport subprocess, sys\nwords = sys.argv[1:]\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_every_source_is_compiled_with_its_own_flags_for_its_own_machine(
    compiler: str, sources: Path, tmp_path: Path
) -> None:
    library = tmp_path / "made" / LIBRARY_NAME
    found = build(library, sources=sources)
    machine = find_compiler().machine
    mine = {isa.name for isa in INSTRUCTION_SETS if isa.machine in (None, machine)}
    assert set(found) <= mine & set(NEEDS)
    assert "portable" in found
    assert set(told(library)) == set(found) & {"avx2", "avxvnni", "portable"}
    assert [path.name for path in library.parent.iterdir()] == [LIBRARY_NAME]


def test_an_instruction_set_that_the_compiler_does_not_know_is_left_out(
    compiler: str, sources: Path, tmp_path: Path
) -> None:
    script = (
        "if any(word.startswith('-mavx') for word in words):\n    sys.exit('unknown flag')\n"
        f"sys.exit(subprocess.run([{compiler!r}, *words]).returncode)"
    )
    library = tmp_path / LIBRARY_NAME
    found = build(library, sources=sources, compiler=fake_compiler(tmp_path, script))
    assert not {"avx2", "avxvnni"} & set(found)
    assert "portable" in found
    assert told(library) == ["portable"]


def test_sources_of_another_machine_are_not_compiled(compiler: str, sources: Path, tmp_path: Path) -> None:
    script = (
        "if words == ['-dumpmachine']:\n    print('riscv64-unknown-linux-gnu')\n    sys.exit()\n"
        f"sys.exit(subprocess.run([{compiler!r}, *words]).returncode)"
    )
    assert build(tmp_path / "a.so", sources=sources, compiler=fake_compiler(tmp_path, script)) == ("portable",)


def test_a_fault_in_a_source_is_named_and_the_old_library_stays(compiler: str, sources: Path, tmp_path: Path) -> None:
    library = tmp_path / "made" / LIBRARY_NAME
    build(library, sources=sources)
    before = library.read_bytes()
    (sources / "isa_portable.cpp").write_text("int f() { return x; }\n")
    with pytest.raises(BuildError, match=r"cannot compile isa_portable\.cpp: .*isa_portable\.cpp:1:.*error"):
        build(library, sources=sources)
    (sources / "isa_portable.cpp").write_text("extern int missing; int f() { return missing; }\n")
    with pytest.raises(BuildError, match="cannot link"):
        build(library, sources=sources, flags=["-Wl,-z,defs"])
    assert library.read_bytes() == before
    assert [path.name for path in library.parent.iterdir()] == [LIBRARY_NAME]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "no-such-compiler",
            "no compiler 'no-such-compiler' on this machine; install g\\+\\+ or clang\\+\\+, or set CXX",
        ),
        (
            "false",
            "false is no compiler like g\\+\\+ or clang\\+\\+: it does not know -dumpmachine; set CXX to another",
        ),
    ],
)
def test_what_is_no_compiler_is_refused(
    command: str, message: str, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", command)
    with pytest.raises(BuildError, match=message):
        build(tmp_path / "a.so", sources=sources)
    assert not (tmp_path / "a.so").exists()


def test_a_machine_without_compiler_is_told_what_to_install(
    tmp_path: Path, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        BuildError, match="no C\\+\\+ compiler on this machine; install g\\+\\+ or clang\\+\\+, or set CXX"
    ):
        build(tmp_path / "a.so", sources=sources)


def test_the_compiler_may_come_with_words_in_front(compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", f"env {shlex.quote(compiler)}")
    assert find_compiler().command == ("env", compiler)


def test_places_that_cannot_be_written_are_named(compiler: str, sources: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BuildError, match=r"cannot write .*file/a\.so: "):
        build(tmp_path / "file" / "a.so", sources=sources)


def test_an_installation_without_the_sources_says_so(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"no sources of the kernels in .*; install pocketspec again"):
        build(tmp_path / "a.so", sources=tmp_path)


def test_installation_succeeds_without_a_compiler(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", str(tmp_path / "lib"), "--build-temp"]
    environment = {**os.environ, "CXX": "no-such-compiler"}
    done = subprocess.run(
        [*command, str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "without native kernels: no compiler 'no-such-compiler' on this machine" in done.stdout + done.stderr
    assert not list(tmp_path.rglob("libpocketspec*"))


@pytest.mark.slow
def test_a_wheel_holds_the_library_and_its_sources(compiler: str, tmp_path: Path) -> None:
    """For one platform and any Python; the tests' own C++ stays out."""
    import zipfile

    copied = tmp_path / "source"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(copied)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(copied)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("pocketspec-*-py3-none-*.whl")
    names = {Path(name) for name in zipfile.ZipFile(wheel).namelist()}
    kernels = Path("runtime/kernels")
    assert {kernels / LIBRARY_NAME, kernels / "native" / "panel.h", kernels / "native" / "isa_portable.cpp"} <= names
    assert not [name for name in names if "testing" in name.parts]
